//! Launches of `kernels/reduce.cu`: sums over axes. A long sum is partitioned into slices that depend on the shape
//! alone, so that it is deterministic.

use transdiff_core::{DType, Error, Result};

use crate::device::{Address, Cuda, In, Out, aligned, lanes};
use crate::driver::{Kernel, LaunchConfig, Params};

/// Maximum number of kept axes, and of summed axes, after merging.
const AXES: usize = 6;
/// Threads per block.
const THREADS: usize = 256;
/// Number of blocks up to which a sum is partitioned into slices.
const BLOCKS: usize = 1024;
/// Minimum summed positions per thread.
const PER_THREAD: usize = 16;

/// `ReduceAxes` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct AxesParams {
    shape: [u64; AXES],
    strides: [u64; AXES],
    count: u64,
    axes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ReduceParams {
    x: u64,
    out: u64,
    kept: AxesParams,
    summed: AxesParams,
    per_slice: u64,
    slices: u32,
    thread_group: u32,
}

// SAFETY: same layout as `ReduceParams` in reduce.cu.
unsafe impl Params for ReduceParams {}

/// Sizes and strides of merged axes, in elements. No size is 1, and no two axes are adjacent without a gap.
#[derive(Clone, Debug, Default)]
struct Axes(Vec<(usize, usize)>);

impl Axes {
    fn new(axes: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (size, stride) in axes.into_iter().filter(|&(size, _)| size != 1) {
            match merged.last_mut() {
                Some(outer) if outer.1 == stride * size => *outer = (outer.0 * size, stride),
                _ => merged.push((size, stride)),
            }
        }
        Self(merged)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|&(size, _)| size).product()
    }

    /// Size of the innermost axis, if its elements are contiguous.
    fn contiguous_len(&self) -> Option<usize> {
        self.0.last().filter(|&&(_, stride)| stride == 1).map(|&(size, _)| size)
    }

    /// Returns whether the strides of all axes, or of all but the innermost, are multiples of `width`.
    fn strides_divisible(&self, width: usize, all: bool) -> bool {
        let axes = &self.0[..self.0.len() - usize::from(!all && !self.0.is_empty())];
        axes.iter().all(|(_, stride)| stride.is_multiple_of(width))
    }

    /// Counts the innermost axis in vectors of `width` elements.
    fn group_into_vectors(&mut self, width: usize) {
        let inner = self.0.last_mut().expect("a contiguous axis");
        *inner = (inner.0 / width, width);
    }

    fn params(&self, op: &'static str) -> Result<AxesParams> {
        let axes = &self.0;
        if axes.len() > AXES {
            let shape: Vec<usize> = axes.iter().map(|&(size, _)| size).collect();
            return Err(Error::shape(op, format!("at most {AXES} axes after merging"), &shape));
        }
        let (count, rank) = (self.count() as u64, axes.len() as u64);
        let mut params = AxesParams { shape: [1; AXES], strides: [0; AXES], count, axes: rank };
        for (i, &(size, stride)) in axes.iter().enumerate() {
            (params.shape[i], params.strides[i]) = (size as u64, stride as u64);
        }
        Ok(params)
    }
}

/// Sum over some axes of a tensor.
struct Sum {
    x: u64,
    dtype: DType,
    kept: Axes,
    summed: Axes,
}

impl Sum {
    /// Writes the sums to `out`, contiguous, in the type `to`.
    fn run(mut self, cuda: &Cuda, op: &'static str, out: u64, to: DType) -> Result<()> {
        let results = self.kept.count();
        if results == 0 || self.summed.count() == 0 {
            let _guard = cuda.lock(op)?;
            return cuda.device.driver.zero(op, out, results * to.size());
        }
        let columns = self.kept.contiguous_len().is_some();
        let wide = self.widen(columns);
        let (thread_group, per_slice) =
            if columns { self.partition_columns() } else { self.partition_rows() };
        let slices = self.summed.count().div_ceil(per_slice);
        let between = if slices > 1 { DType::F32 } else { to };
        let partial =
            (slices > 1).then(|| cuda.scratch(op, slices * results * between.size())).transpose()?;
        let params = ReduceParams {
            x: self.x,
            out: partial.as_ref().map_or(out, |partial| partial.address()),
            kept: self.kept.params(op)?,
            summed: self.summed.params(op)?,
            per_slice: per_slice as u64,
            slices: slices as u32,
            thread_group: thread_group as u32,
        };
        let (kept, thread_groups) = (self.kept.count(), THREADS / thread_group);
        let blocks = if columns {
            kept.div_ceil(thread_group) * slices
        } else {
            (kept * slices).div_ceil(thread_groups)
        };
        let launch = LaunchConfig { grid: [blocks as u32, 1, 1], block: THREADS as u32, shared: 0 };
        cuda.launch_kernel(op, kernel(op, columns, wide, self.dtype, between)?, launch, &params)?;
        let Some(partial) = partial else { return Ok(()) };
        Columns::new(partial.address(), [1, slices, results]).sum(cuda, op, out, to)
    }

    /// Groups the contiguous axis into vectors of 16 bytes if alignment allows it; returns whether it did.
    fn widen(&mut self, columns: bool) -> bool {
        let width = lanes(self.dtype);
        let (inner, other) =
            if columns { (&mut self.kept, &self.summed) } else { (&mut self.summed, &self.kept) };
        let divides = inner.contiguous_len().is_some_and(|size| size.is_multiple_of(width));
        let wide = divides
            && aligned(&[self.x])
            && inner.strides_divisible(width, false)
            && other.strides_divisible(width, true);
        if wide {
            inner.group_into_vectors(width);
        }
        wide
    }

    /// Threads along the results, and summed positions per slice.
    fn partition_columns(&self) -> (usize, usize) {
        let thread_group = self.kept.count().next_power_of_two().min(32);
        let blocks_per_slice = self.kept.count().div_ceil(thread_group);
        let slices = (BLOCKS / blocks_per_slice).max(1);
        (thread_group, self.summed.count().div_ceil(slices).max(THREADS / thread_group * PER_THREAD))
    }

    /// Threads per result, and summed positions per slice.
    fn partition_rows(&self) -> (usize, usize) {
        let count = self.summed.count();
        if count <= THREADS * PER_THREAD / 4 {
            return (32, count);
        }
        let slices = (BLOCKS / self.kept.count()).max(1);
        (THREADS, count.div_ceil(slices).max(THREADS * PER_THREAD))
    }
}

fn kernel(op: &'static str, columns: bool, wide: bool, from: DType, to: DType) -> Result<Kernel> {
    macro_rules! between {
        ($from:literal, $to:literal) => {
            match (columns, wide) {
                (true, false) => concat!("sum_columns_", $from, "_", $to),
                (true, true) => concat!("sum_columns_wide_", $from, "_", $to),
                (false, false) => concat!("sum_rows_", $from, "_", $to),
                (false, true) => concat!("sum_rows_wide_", $from, "_", $to),
            }
        };
    }
    let name = match (from, to) {
        (DType::F32, DType::F32) => between!("f32", "f32"),
        (DType::F32, DType::BF16) => between!("f32", "bf16"),
        (DType::BF16, DType::F32) => between!("bf16", "f32"),
        (DType::BF16, DType::BF16) => between!("bf16", "bf16"),
        (got, _) => return Err(Error::DType { op, expected: "f32 or bf16".into(), got }),
    };
    Ok(Kernel { module: "reduce", name })
}

/// Sum over the second of three axes [outer, rows, width], the last of which is contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) x: u64,
    pub(crate) dtype: DType,
    pub(crate) size: [usize; 3],
    /// Strides of the first and the second axis, in elements.
    pub(crate) strides: [usize; 2],
}

impl Columns {
    /// Contiguous f32 elements.
    pub(crate) fn new(x: u64, size: [usize; 3]) -> Self {
        Self { x, dtype: DType::F32, size, strides: [size[1] * size[2], size[2]] }
    }

    /// Writes the sums [outer, width] to `out`.
    pub(crate) fn sum(self, cuda: &Cuda, op: &'static str, out: u64, to: DType) -> Result<()> {
        let ([outer, rows, width], [group, row]) = (self.size, self.strides);
        let (kept, summed) = (Axes::new([(outer, group), (width, 1)]), Axes::new([(rows, row)]));
        Sum { x: self.x, dtype: self.dtype, kept, summed }.run(cuda, op, out, to)
    }
}

pub(crate) fn sum(cuda: &Cuda, x: In<'_>, out: Out<'_>) -> Result<()> {
    let axes = || {
        let sizes = x.layout.shape().iter().zip(out.layout.shape());
        sizes.zip(x.layout.strides()).map(|((&n, &m), &stride)| (n, m, stride))
    };
    let kept = Axes::new(axes().filter(|(n, m, _)| n == m).map(|(n, _, stride)| (n, stride)));
    let mut summed: Vec<_> = axes().filter(|(n, m, _)| n != m).map(|(n, _, stride)| (n, stride)).collect();
    summed.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
    Sum { x: x.address(), dtype: x.dtype, kept, summed: Axes::new(summed) }.run(
        cuda,
        "sum",
        out.address(),
        out.dtype,
    )
}
