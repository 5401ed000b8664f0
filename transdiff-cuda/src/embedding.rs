//! Rows of a table, and the sum of gradients back into it.

use transdiff_core::Result;

use crate::device::{Address, Cuda, In, Out};
use crate::driver::{Launch, Params};
use crate::norm::in_vectors;
use crate::tiles::Tiles;

/// Rows of a thread.
const ROWS: usize = 4;
/// Threads of a block of the backward pass: `EMBEDDING_THREADS` of embedding.cu.
const THREADS: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    /// table, ids, out.
    address: [u64; 3],
    tiles: Tiles,
}

// SAFETY: the fields of `EmbeddingParams` in embedding.cu.
unsafe impl Params for ForwardParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    /// ids, dy, dtable.
    address: [u64; 3],
    count: u64,
    width: u64,
    across: u32,
}

// SAFETY: the fields of `EmbeddingBackwardParams` in embedding.cu.
unsafe impl Params for BackwardParams {}

pub(crate) fn forward(cuda: &Cuda, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
    const OP: &str = "embedding";
    let (count, width) = (ids.layout.numel(), table.layout.shape()[1]);
    let lanes = 16 / table.dtype.size();
    let wide = in_vectors(&[table.address(), out.address()], width, &[], lanes);
    let tiles = Tiles::new([1, count, width], if wide { lanes } else { 1 }, ROWS);
    let params = ForwardParams { address: [table.address(), ids.address(), out.address()], tiles };
    cuda.launch(OP, vector_kernel!(OP, "embedding", "embedding", wide, table.dtype)?, tiles.launch(), &params)
}

/// Every row of the table looks through all ids, 32 at a time: V·n/32 steps for V rows and n ids, which is little for
/// the classes of a batch, and would not be for the words of a corpus.
pub(crate) fn backward(cuda: &Cuda, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
    const OP: &str = "embedding_backward";
    let &[rows, width] = dtable.layout.shape() else { unreachable!("core checks the rank") };
    let lanes = 16 / dy.dtype.size();
    let wide = in_vectors(&[dy.address(), dtable.address()], width, &[], lanes);
    let across = width.div_ceil(if wide { lanes } else { 1 }).div_ceil(THREADS);
    let params = BackwardParams {
        address: [ids.address(), dy.address(), dtable.address()],
        count: ids.layout.numel() as u64,
        width: width as u64,
        across: across as u32,
    };
    let kernel = vector_kernel!(OP, "embedding", "embedding_backward", wide, dy.dtype)?;
    let launch = Launch { grid: [(rows * across) as u32, 1, 1], block: THREADS as u32, shared: 0 };
    cuda.launch(OP, kernel, launch, &params)
}
