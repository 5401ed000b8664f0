//! Launches of `kernels/norm_backward.cu`: backward pass of layer norm with affine and modulation.

use transdiff_core::backend::{NormArgs, NormGrads};
use transdiff_core::{DType, Result};

use crate::device::{Address, Cuda, In, Memory, address_of, lanes, vectorizable};
use crate::driver::{LaunchConfig, Params};
use crate::norm::{ThreadGroup, group_stride};
use crate::reduce::Columns;
use crate::row_partition::rows_per_partial_sum;

const OP: &str = "norm_modulate_backward";

/// Largest block that holds a row in registers: `NORM_BACKWARD_THREADS` of norm_backward.cu.
const THREADS: usize = 512;
/// Rows per chunk if no gradient is a sum over rows.
const ROWS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct NormBackwardParams {
    x: u64,
    dy: u64,
    stats: u64,
    weight: u64,
    scale: u64,
    dx: u64,
    residual: u64,
    sums: u64,
    scale_stride: u64,
    rows: u64,
    width: u32,
    per_chunk: u32,
    per_group: u32,
    chunks: u32,
}

// SAFETY: same layout as `NormBackwardParams` in norm_backward.cu.
unsafe impl Params for NormBackwardParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct FinishParams {
    sums: u64,
    weight: u64,
    bias: u64,
    scale: u64,
    dscale: u64,
    dshift: u64,
    scale_stride: u64,
    groups: u64,
    width: u64,
}

// SAFETY: same layout as `NormBackwardFinishParams` in norm_backward.cu.
unsafe impl Params for FinishParams {}

/// Partition of [G, R, D]: the rows of each group in chunks.
#[derive(Clone, Copy, Debug)]
struct Chunks {
    groups: usize,
    rows: usize,
    width: usize,
    per_chunk: usize,
}

impl Chunks {
    fn new(shape: &[usize], thread_group: ThreadGroup, summed: bool) -> Self {
        let &[groups, rows, width] = shape else { unreachable!("core checks the rank") };
        // The shorter a warp's rows are, the more warps occupy a GPU.
        let all = match thread_group {
            ThreadGroup::Warp { channels: 8 } => groups * rows / 8,
            ThreadGroup::Warp { .. } => groups * rows / 2,
            _ => groups * rows,
        };
        Self { groups, rows, width, per_chunk: if summed { rows_per_partial_sum(all) } else { ROWS } }
    }

    fn per_group(&self) -> usize {
        self.rows.div_ceil(self.per_chunk)
    }

    fn count(&self) -> usize {
        self.groups * self.per_group()
    }

    /// Sets the partition in the parameters.
    fn fill(&self, params: NormBackwardParams) -> NormBackwardParams {
        let [per_chunk, per_group, chunks] =
            [self.per_chunk, self.per_group(), self.count()].map(|n| n as u32);
        NormBackwardParams { per_chunk, per_group, chunks, ..params }
    }
}

pub(crate) fn backward(
    cuda: &Cuda,
    args: NormArgs<'_, Cuda>,
    stats: In<'_>,
    dy: In<'_>,
    grads: NormGrads<'_, Cuda>,
) -> Result<()> {
    let (width, stream, dtype) = (args.x.layout.shape()[2], args.x.dtype, dy.dtype);
    if width == 0 {
        return Ok(());
    }
    let (weight, scale) = (args.affine.map(|(w, _)| w), args.modulation.map(|(s, _)| s));
    let thread_group = ThreadGroup::new(width, THREADS);
    let summed = grads.daffine.is_some() || grads.dmodulation.is_some();
    let chunks = Chunks::new(args.x.layout.shape(), thread_group, summed);
    let sums = summed.then(|| cuda.scratch(OP, chunks.count() * 2 * width * size_of::<f32>())).transpose()?;
    let params = NormBackwardParams {
        x: args.x.address(),
        dy: dy.address(),
        stats: stats.address(),
        weight: address_of(weight.as_ref()),
        scale: address_of(scale.as_ref()),
        dx: address_of(grads.dx.as_ref()),
        residual: address_of(grads.residual.as_ref()),
        sums: sums.as_ref().map_or(0, Memory::address),
        scale_stride: group_stride(scale.as_ref()),
        rows: chunks.rows as u64,
        width: width as u32,
        per_chunk: 0,
        per_group: 0,
        chunks: 0,
    };
    if thread_group == ThreadGroup::LongRow {
        long_rows(cuda, [stream, dtype], chunks, params)?;
    } else {
        let addresses = [params.x, params.dy, params.weight, params.scale, params.dx, params.residual];
        let wide = vectorizable(&addresses, width, &[params.scale_stride], lanes(dtype));
        let kernel = match thread_group {
            ThreadGroup::Warp { channels: 8 } => {
                stream_kernel!(OP, "norm_backward", "norm_backward_warp_8", wide, stream, dtype)
            }
            ThreadGroup::Warp { channels: 32 } => {
                stream_kernel!(OP, "norm_backward", "norm_backward_warp_32", wide, stream, dtype)
            }
            ThreadGroup::Warp { .. } => {
                stream_kernel!(OP, "norm_backward", "norm_backward_warp_40", wide, stream, dtype)
            }
            _ => stream_kernel!(OP, "norm_backward", "norm_backward_block", wide, stream, dtype),
        };
        cuda.launch_kernel(
            OP,
            kernel?,
            thread_group.launch_config(chunks.count(), width),
            &chunks.fill(params),
        )?;
    }
    match sums {
        Some(sums) => finish(cuda, dtype, args, &sums, chunks, grads),
        None => Ok(()),
    }
}

/// Rows that do not fit in registers: dx and the sums in separate kernels.
fn long_rows(
    cuda: &Cuda,
    [stream, dtype]: [DType; 2],
    chunks: Chunks,
    params: NormBackwardParams,
) -> Result<()> {
    if params.dx != 0 {
        let rows = Chunks { per_chunk: 1, ..chunks };
        let kernel = stream_kernel!(OP, "norm_backward", "norm_backward_long_dx", false, stream, dtype)?;
        cuda.launch_kernel(
            OP,
            kernel,
            ThreadGroup::LongRow.launch_config(rows.count(), rows.width),
            &rows.fill(params),
        )?;
    }
    if params.sums != 0 {
        let kernel = stream_kernel!(OP, "norm_backward", "norm_backward_long_sums", false, stream, dtype)?;
        let blocks_per_chunk = chunks.width.div_ceil(THREADS);
        let launch = LaunchConfig {
            grid: [(chunks.count() * blocks_per_chunk) as u32, 1, 1],
            block: THREADS as u32,
            shared: 0,
        };
        cuda.launch_kernel(OP, kernel, launch, &chunks.fill(params))?;
    }
    Ok(())
}

/// Gradients that are sums over rows, from `sums` [chunks, 2, D], the partial sums of dy and dy·x̂.
fn finish(
    cuda: &Cuda,
    dtype: DType,
    args: NormArgs<'_, Cuda>,
    sums: &Memory,
    chunks: Chunks,
    grads: NormGrads<'_, Cuda>,
) -> Result<()> {
    let Chunks { groups, width, .. } = chunks;
    let scale = args.modulation.map(|(scale, _)| scale);
    // Sums over rows [.., 2, D] to the gradients of bias and weight.
    let affine = |from: &Memory, rows: usize| -> Result<()> {
        let Some((dweight, dbias)) = grads.daffine else { return Ok(()) };
        for (part, out) in [dbias, dweight].into_iter().enumerate() {
            let x = from.address() + (part * width * size_of::<f32>()) as u64;
            let columns = Columns { strides: [0, 2 * width], ..Columns::new(x, [1, rows, width]) };
            columns.sum(cuda, OP, out.address(), out.dtype)?;
        }
        Ok(())
    };
    if scale.is_none() {
        return affine(sums, chunks.count());
    }
    let group_sums = cuda.scratch(OP, groups * 2 * width * size_of::<f32>())?;
    let columns = Columns::new(sums.address(), [groups, chunks.per_group(), 2 * width]);
    columns.sum(cuda, OP, group_sums.address(), DType::F32)?;
    let (weight, bias) = args.affine.unzip();
    let (dscale, dshift) = grads.dmodulation.unzip();
    let params = FinishParams {
        sums: group_sums.address(),
        weight: address_of(weight.as_ref()),
        bias: address_of(bias.as_ref()),
        scale: address_of(scale.as_ref()),
        dscale: address_of(dscale.as_ref()),
        dshift: address_of(dshift.as_ref()),
        scale_stride: group_stride(scale.as_ref()),
        groups: groups as u64,
        width: width as u64,
    };
    let launch = LaunchConfig { grid: [(groups * width).div_ceil(256) as u32, 1, 1], block: 256, shared: 0 };
    cuda.launch_kernel(OP, kernel!(OP, "norm_backward", "norm_backward_finish", dtype)?, launch, &params)?;
    affine(&group_sums, groups)
}
