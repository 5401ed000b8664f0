//! Strided iteration, shared by elementwise operations and copies. Its device side is `kernels/strided_indexer.cuh`.

use std::cmp::Reverse;

use transdiff_core::{Error, Layout, Result};

use crate::driver::{LaunchConfig, Params};

/// Maximum number of axes after merging.
pub(crate) const AXES: usize = 6;
/// Threads per block, and vectors per thread.
const THREADS: u32 = 256;
const UNROLL: u64 = 2;

/// `StridedIndexer` of the kernels: maps a linear index to the offsets of N tensors.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct StridedIndexer<const N: usize> {
    address: [u64; N],
    strides: [[u64; AXES]; N],
    shape: [u64; AXES],
    count: u64,
    axes: u32,
    repeats: u32,
}

// SAFETY: same layout as `StridedIndexer` in strided_indexer.cuh.
unsafe impl<const N: usize> Params for StridedIndexer<N> {}

impl<const N: usize> StridedIndexer<N> {
    /// `UNROLL` vectors per thread.
    pub(crate) fn launch_config(&self) -> LaunchConfig {
        LaunchConfig {
            grid: [self.count.div_ceil(u64::from(THREADS) * UNROLL) as u32, 1, 1],
            block: THREADS,
            shared: 0,
        }
    }
}

/// Common axes of N tensors of equal shape, of which the last is the output. Axes are ordered by the output's strides,
/// and axes that are adjacent without gaps in every tensor are merged. Sizes and strides count elements.
#[derive(Clone, Debug)]
pub(crate) struct StridedPlan<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<usize>; N],
    address: [u64; N],
    /// Bytes per element.
    sizes: [usize; N],
}

impl<const N: usize> StridedPlan<N> {
    /// Plan for tensors whose first elements are at `address`.
    pub(crate) fn new(layouts: [&Layout; N], address: [u64; N], sizes: [usize; N]) -> Self {
        let out = layouts[N - 1];
        let mut axes: Vec<usize> = (0..out.rank()).filter(|&a| out.shape()[a] != 1).collect();
        axes.sort_by_key(|&a| Reverse(out.strides()[a]));
        let mut plan = Self { shape: Vec::new(), strides: [const { Vec::new() }; N], address, sizes };
        for axis in axes {
            plan.push(out.shape()[axis], layouts.map(|l| l.strides()[axis]));
        }
        if plan.shape.is_empty() {
            plan.push(1, [0; N]);
        }
        plan
    }

    /// Appends an axis as the innermost, or merges it into the innermost one.
    fn push(&mut self, size: usize, strides: [usize; N]) {
        let is_adjacent = |(outer, inner): (&Vec<usize>, usize)| outer.last() == Some(&(inner * size));
        if self.strides.iter().zip(strides).all(is_adjacent) {
            *self.shape.last_mut().expect("not empty") *= size;
            for (outer, inner) in self.strides.iter_mut().zip(strides) {
                *outer.last_mut().expect("not empty") = inner;
            }
        } else {
            self.shape.push(size);
            self.strides.iter_mut().zip(strides).for_each(|(all, stride)| all.push(stride));
        }
    }

    /// Returns whether the innermost axis can be accessed in vectors of `width` elements. With `repeats`, an input may
    /// have stride 0 along it.
    pub(crate) fn fits(&self, width: usize, repeats: bool) -> bool {
        let inner = self.shape.last().expect("a plan has an axis");
        let fits = |t: usize| {
            let (step, strides) = self.strides[t].split_last().expect("a plan has an axis");
            let repeated = *step == 0 && repeats && t + 1 < N;
            let aligned = self.address[t].is_multiple_of((width * self.sizes[t]) as u64)
                && strides.iter().all(|stride| stride.is_multiple_of(width));
            repeated || (*step == 1 && aligned)
        };
        inner.is_multiple_of(width) && (0..N).all(fits)
    }

    /// The plan for tensors of words of `width` elements.
    pub(crate) fn in_words(mut self, width: usize) -> Self {
        *self.shape.last_mut().expect("a plan has an axis") /= width;
        for strides in &mut self.strides {
            let outer = strides.len() - 1;
            strides[..outer].iter_mut().for_each(|stride| *stride /= width);
        }
        self.sizes = self.sizes.map(|size| size * width);
        self
    }

    /// The indexer for vectors of `width` elements.
    pub(crate) fn indexer(&self, op: &'static str, width: usize) -> Result<StridedIndexer<N>> {
        let axes = self.shape.len();
        if axes > AXES {
            let expected = format!("strides that leave at most {AXES} axes after merging");
            return Err(Error::shape(op, expected, &self.shape));
        }
        let mut indexer = StridedIndexer {
            address: self.address,
            strides: [[0; AXES]; N],
            shape: [1; AXES],
            count: 0,
            axes: axes as u32,
            repeats: 0,
        };
        for (to, &size) in indexer.shape.iter_mut().zip(&self.shape) {
            *to = size as u64;
        }
        indexer.shape[axes - 1] /= width as u64;
        indexer.count = indexer.shape[..axes].iter().product();
        for (t, strides) in self.strides.iter().enumerate() {
            for (to, &stride) in indexer.strides[t].iter_mut().zip(strides) {
                *to = stride as u64;
            }
            indexer.strides[t][axes - 1] *= width as u64;
            indexer.repeats |= u32::from(strides[axes - 1] == 0) << t;
        }
        Ok(indexer)
    }
}
