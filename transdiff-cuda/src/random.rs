//! Launches of `kernels/random.cu`: dropout.

use transdiff_core::Result;
use transdiff_core::rng::Dropout;

use crate::device::{Address, Cuda, DropoutParams, In, Out, aligned};
use crate::driver::{LaunchConfig, Params};

/// Threads per block, and elements per thread: one Philox block.
const THREADS: u32 = 256;
const ELEMENTS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DropParams {
    address: [u64; 2],
    count: u64,
    dropout: DropoutParams,
}

// SAFETY: same layout as `DropParams` in random.cu.
unsafe impl Params for DropParams {}

pub(crate) fn dropout(cuda: &Cuda, x: In<'_>, dropout: Dropout, y: Out<'_>) -> Result<()> {
    const OP: &str = "dropout";
    let (address, count) = ([x.address(), y.address()], x.layout.numel());
    let kernel = vector_kernel!(OP, "random", "dropout", aligned(&address), x.dtype)?;
    let blocks = count.div_ceil(ELEMENTS * THREADS as usize) as u32;
    let params = DropParams { address, count: count as u64, dropout: DropoutParams::new(Some(dropout)) };
    cuda.launch_kernel(OP, kernel, LaunchConfig { grid: [blocks, 1, 1], block: THREADS, shared: 0 }, &params)
}
