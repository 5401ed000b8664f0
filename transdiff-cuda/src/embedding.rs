//! Launches of `kernels/embedding.cu`: table lookup, and accumulation of its gradients.

use transdiff_core::Result;

use crate::device::{Address, Cuda, In, Out, lanes, vectorizable};
use crate::driver::{LaunchConfig, Params};
use crate::row_partition::RowPartition;

/// Rows per thread.
const ROWS: usize = 4;
/// Threads per block of the backward pass: `EMBEDDING_THREADS` of embedding.cu.
const THREADS: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    /// table, ids, out.
    address: [u64; 3],
    partition: RowPartition,
}

// SAFETY: same layout as `EmbeddingParams` in embedding.cu.
unsafe impl Params for ForwardParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    /// ids, dy, dtable.
    address: [u64; 3],
    count: u64,
    width: u64,
    blocks_per_row: u32,
}

// SAFETY: same layout as `EmbeddingBackwardParams` in embedding.cu.
unsafe impl Params for BackwardParams {}

pub(crate) fn forward(cuda: &Cuda, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
    const OP: &str = "embedding";
    let (count, width) = (ids.layout.numel(), table.layout.shape()[1]);
    let lanes = lanes(table.dtype);
    let wide = vectorizable(&[table.address(), out.address()], width, &[], lanes);
    let partition = RowPartition::new([1, count, width], if wide { lanes } else { 1 }, ROWS);
    let params = ForwardParams { address: [table.address(), ids.address(), out.address()], partition };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "embedding", "embedding", wide, table.dtype)?,
        partition.launch_config(),
        &params,
    )
}

/// Accumulates dy into the rows of the table. Each row of the table scans all ids, 32 at a time: V·n/32 steps for V
/// rows and n ids. That is cheap for the classes of a batch; it would not be for the vocabulary of a corpus.
pub(crate) fn backward(cuda: &Cuda, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
    const OP: &str = "embedding_backward";
    let &[rows, width] = dtable.layout.shape() else { unreachable!("core checks the rank") };
    let lanes = lanes(dy.dtype);
    let wide = vectorizable(&[dy.address(), dtable.address()], width, &[], lanes);
    let blocks_per_row = width.div_ceil(if wide { lanes } else { 1 }).div_ceil(THREADS);
    let params = BackwardParams {
        address: [ids.address(), dy.address(), dtable.address()],
        count: ids.layout.numel() as u64,
        width: width as u64,
        blocks_per_row: blocks_per_row as u32,
    };
    let kernel = vector_kernel!(OP, "embedding", "embedding_backward", wide, dy.dtype)?;
    let launch =
        LaunchConfig { grid: [(rows * blocks_per_row) as u32, 1, 1], block: THREADS as u32, shared: 0 };
    cuda.launch_kernel(OP, kernel, launch, &params)
}
