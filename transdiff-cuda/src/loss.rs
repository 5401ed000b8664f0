//! Launches of `kernels/loss.cu`: mean squared error, summed in f64.

use transdiff_core::Result;

use crate::device::{Address, Cuda, In, Out, lanes, vectorizable};
use crate::driver::{LaunchConfig, Params};

/// Threads per block, and vectors per thread: `SUM_THREADS` and `LOSS_VECTORS` of the kernels.
const THREADS: usize = 256;
const VECTORS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LossParams {
    /// a, b, sums.
    address: [u64; 3],
    count: u64,
}

// SAFETY: same layout as `LossParams` in loss.cu.
unsafe impl Params for LossParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LossMeanParams {
    /// sums, loss.
    address: [u64; 2],
    sum_count: u64,
    count: u64,
}

// SAFETY: same layout as `LossMeanParams` in loss.cu.
unsafe impl Params for LossMeanParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LossBackwardParams {
    /// a, b, dloss, da.
    address: [u64; 4],
    count: u64,
}

// SAFETY: same layout as `LossBackwardParams` in loss.cu.
unsafe impl Params for LossBackwardParams {}

fn launch_config(blocks: usize) -> LaunchConfig {
    LaunchConfig { grid: [blocks as u32, 1, 1], block: THREADS as u32, shared: 0 }
}

pub(crate) fn forward(cuda: &Cuda, a: In<'_>, b: In<'_>, loss: Out<'_>) -> Result<()> {
    const OP: &str = "mse";
    let (count, lanes) = (a.layout.numel(), lanes(a.dtype));
    let wide = vectorizable(&[a.address(), b.address()], count, &[], lanes);
    let blocks = count.div_ceil(THREADS * VECTORS * if wide { lanes } else { 1 });
    let sums = cuda.scratch(OP, blocks * size_of::<f64>())?;
    let params = LossParams { address: [a.address(), b.address(), sums.address()], count: count as u64 };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "loss", "mse", wide, a.dtype)?,
        launch_config(blocks),
        &params,
    )?;
    let address = [sums.address(), loss.address()];
    let params = LossMeanParams { address, sum_count: blocks as u64, count: count as u64 };
    cuda.launch_kernel(OP, kernel!(OP, "loss", "mse_mean", a.dtype)?, launch_config(1), &params)
}

pub(crate) fn backward(cuda: &Cuda, a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) -> Result<()> {
    const OP: &str = "mse_backward";
    let (count, lanes) = (a.layout.numel(), lanes(a.dtype));
    let wide = vectorizable(&[a.address(), b.address(), da.address()], count, &[], lanes);
    let blocks = count.div_ceil(THREADS * if wide { lanes } else { 1 });
    let address = [a.address(), b.address(), dloss.address(), da.address()];
    let params = LossBackwardParams { address, count: count as u64 };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "loss", "mse_backward", wide, a.dtype)?,
        launch_config(blocks),
        &params,
    )
}
