//! Launches of `kernels/random.cu`: dropout.

use transdiff_core::Result;
use transdiff_core::rng::Dropout;

use crate::device::{Address, Cuda, DropoutParams, In, Out, aligned, size_u32};
use crate::driver::{LaunchConfig, Params};

/// Threads per block, and elements per thread: one Philox block.
const THREADS: u32 = 256;
const ELEMENTS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DropParams {
    address: [u64; 2],
    size: u64,
    blocks: u32,
    dropout: DropoutParams,
}

// SAFETY: same layout as `DropParams` in random.cu.
unsafe impl Params for DropParams {}

pub(crate) fn dropout(cuda: &Cuda, x: In<'_>, dropout: Dropout, y: Out<'_>) -> Result<()> {
    const OP: &str = "dropout";
    let (address, size) = ([x.address(), y.address()], x.layout.numel() / dropout.samples);
    let wide = aligned(&address) && (dropout.samples == 1 || size.is_multiple_of(ELEMENTS));
    let kernel = vector_kernel!(OP, "random", "dropout", wide, x.dtype)?;
    let blocks = size_u32(OP, dropout.samples * size.div_ceil(ELEMENTS))?;
    let params = DropParams {
        address,
        size: size as u64,
        blocks,
        dropout: DropoutParams::new(OP, Some(dropout), blocks as usize)?,
    };
    let grid = [blocks.div_ceil(THREADS), 1, 1];
    cuda.launch_kernel(OP, kernel, LaunchConfig { grid, block: THREADS, shared: 0 }, &params)
}
