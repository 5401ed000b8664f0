//! Launches of `kernels/dropout_mask.cu`: masks with a bit per element.

use transdiff_core::{Result, rng::Dropout};

use crate::device::{Address, Cuda, DropoutParams, Out, size_u32};
use crate::driver::{Kernel, LaunchConfig, Params};

/// `DropoutMaskParams` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DropoutMaskParams {
    kept: u64,
    rows: u64,
    width: u32,
    words: u32,
    dropout: DropoutParams,
}

// SAFETY: same layout as `DropoutMaskParams` in dropout_mask.cu.
unsafe impl Params for DropoutMaskParams {}

pub(crate) fn dropout_mask(cuda: &Cuda, dropout: Dropout, width: usize, kept: Out<'_>) -> Result<()> {
    const OP: &str = "dropout_mask";
    /// Threads per block.
    const THREADS: usize = 256;
    let (len, words) = (kept.layout.numel(), width.div_ceil(32));
    let rows = len.checked_div(words).unwrap_or(0);
    let params = DropoutMaskParams {
        kept: kept.address(),
        rows: rows as u64,
        width: size_u32(OP, width)?,
        words: words as u32,
        dropout: DropoutParams::new(OP, Some(dropout), rows)?,
    };
    let kernel = Kernel { module: "dropout_mask", name: "dropout_mask_32" };
    let grid = [size_u32(OP, len.div_ceil(THREADS))?, 1, 1];
    cuda.launch_kernel(OP, kernel, LaunchConfig { grid, block: THREADS as u32, shared: 0 }, &params)
}
