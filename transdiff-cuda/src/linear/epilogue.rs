//! Launches of `kernels/linear.cu`: bias and activation of a linear layer, where cuBLASLt does not fuse them, and their
//! backward pass.

use transdiff_core::{DType, Result};

use crate::device::{Cuda, Memory, lanes, vectorizable};
use crate::driver::Params;
use crate::reduce::Columns;
use crate::row_partition::{RowPartition, rows_per_partial_sum};

/// Rows per thread: `LINEAR_ROWS` of linear.cu.
const ROWS: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BiasActivationParams {
    /// x, bias, y.
    address: [u64; 3],
    partition: RowPartition,
    gelu: u32,
}

// SAFETY: same layout as `BiasActivationParams` in linear.cu.
unsafe impl Params for BiasActivationParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct GeluBackwardParams {
    /// pre, dy, g, sums.
    address: [u64; 4],
    partition: RowPartition,
}

// SAFETY: same layout as `GeluBackwardParams` in linear.cu.
unsafe impl Params for GeluBackwardParams {}

fn bias_activation(
    cuda: &Cuda,
    dtype: DType,
    [rows, width]: [usize; 2],
    address: [u64; 3],
    gelu: bool,
) -> Result<()> {
    const OP: &str = "linear";
    let wide = vectorizable(&address, width, &[], lanes(dtype));
    let partition = RowPartition::new([1, rows, width], if wide { lanes(dtype) } else { 1 }, ROWS);
    let params = BiasActivationParams { address, partition, gelu: u32::from(gelu) };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "linear", "bias_activation", wide, dtype)?,
        partition.launch_config(),
        &params,
    )
}

/// y ← gelu(x), the exact form, of `len` elements; x and y may alias.
pub(crate) fn gelu(cuda: &Cuda, dtype: DType, len: usize, x: u64, y: u64) -> Result<()> {
    bias_activation(cuda, dtype, [1, len], [x, 0, y], true)
}

/// y ← y + bias. y [M, N], bias `[N]`.
pub(crate) fn add_bias(cuda: &Cuda, dtype: DType, size: [usize; 2], bias: u64, y: u64) -> Result<()> {
    bias_activation(cuda, dtype, size, [y, bias, y], false)
}

/// g ← gelu′(pre) · dy, all [M, N], and db ← Σ_M g if requested.
pub(crate) fn gelu_backward(
    cuda: &Cuda,
    dtype: DType,
    size: [usize; 2],
    [pre, dy]: [u64; 2],
    g: u64,
    db: Option<u64>,
) -> Result<()> {
    const OP: &str = "linear_backward";
    let [rows, width] = if db.is_some() { size } else { [1, size[0] * size[1]] };
    let wide = vectorizable(&[pre, dy, g], width, &[], lanes(dtype));
    let per_chunk = if db.is_some() { rows_per_partial_sum(rows) } else { ROWS };
    let partition = RowPartition::new([1, rows, width], if wide { lanes(dtype) } else { 1 }, per_chunk);
    let sums = db.map(|_| cuda.scratch(OP, partition.chunks() * width * size_of::<f32>())).transpose()?;
    let sums_address = sums.as_ref().map_or(0, Memory::address);
    let params = GeluBackwardParams { address: [pre, dy, g, sums_address], partition };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "linear", "gelu_backward", wide, dtype)?,
        partition.launch_config(),
        &params,
    )?;
    match db {
        Some(db) => Columns::new(sums_address, [1, partition.chunks(), width]).sum(cuda, OP, db, dtype),
        None => Ok(()),
    }
}

/// db ← Σ_M g. g [M, N], db `[N]`.
pub(crate) fn column_sum(
    cuda: &Cuda,
    dtype: DType,
    [rows, width]: [usize; 2],
    g: u64,
    db: u64,
) -> Result<()> {
    Columns { dtype, ..Columns::new(g, [1, rows, width]) }.sum(cuda, "linear_backward", db, dtype)
}
