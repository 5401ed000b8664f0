//! Dropout.

use transdiff_core::Result;
use transdiff_core::rng::Dropout;

use crate::device::{Address, Cuda, DropoutParams, In, Out, aligned};
use crate::driver::{Launch, Params};

/// Threads of a block, and elements of a thread: a block of Philox.
const THREADS: u32 = 256;
const ELEMENTS: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DropParams {
    address: [u64; 2],
    count: u64,
    dropout: DropoutParams,
}

// SAFETY: the fields of `DropParams` in random.cu.
unsafe impl Params for DropParams {}

pub(crate) fn dropout(cuda: &Cuda, x: In<'_>, dropout: Dropout, y: Out<'_>) -> Result<()> {
    const OP: &str = "dropout";
    let (address, count) = ([x.address(), y.address()], x.layout.numel());
    let kernel = vector_kernel!(OP, "random", "dropout", aligned(&address), x.dtype)?;
    let blocks = count.div_ceil(ELEMENTS * THREADS as usize) as u32;
    let params = DropParams { address, count: count as u64, dropout: DropoutParams::new(Some(dropout)) };
    cuda.launch(OP, kernel, Launch { grid: [blocks, 1, 1], block: THREADS, shared: 0 }, &params)
}
