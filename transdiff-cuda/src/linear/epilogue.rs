//! Launches of `kernels/linear.cu`: bias and activation of a linear layer, where cuBLASLt does not fuse them, and their
//! backward pass.

use transdiff_core::rng::Dropout;
use transdiff_core::{DType, Result};

use crate::device::{Cuda, DropoutParams, Memory, lanes, vectorizable};
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
    dropout: DropoutParams,
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
    dropout: DropoutParams,
}

// SAFETY: same layout as `GeluBackwardParams` in linear.cu.
unsafe impl Params for GeluBackwardParams {}

fn bias_activation(
    cuda: &Cuda,
    dtype: DType,
    size: [usize; 3],
    address: [u64; 3],
    (gelu, dropout): (bool, Option<Dropout>),
) -> Result<()> {
    const OP: &str = "linear";
    let wide = vectorizable(&address, size[2], &[], lanes(dtype));
    let partition = RowPartition::new(size, if wide { lanes(dtype) } else { 1 }, ROWS);
    let dropout = DropoutParams::new(OP, dropout, size[0])?;
    let params = BiasActivationParams { address, partition, dropout, gelu: u32::from(gelu) };
    cuda.launch_kernel(
        OP,
        vector_kernel!(OP, "linear", "bias_activation", wide, dtype)?,
        partition.launch_config(),
        &params,
    )
}

/// y ← dropout(gelu(x)), the exact form, of `len` elements; x and y may alias.
pub(crate) fn gelu(
    cuda: &Cuda,
    dtype: DType,
    len: usize,
    dropout: Option<Dropout>,
    [x, y]: [u64; 2],
) -> Result<()> {
    let samples = dropout.map_or(1, |dropout| dropout.samples);
    bias_activation(cuda, dtype, [samples, 1, len / samples], [x, 0, y], (true, dropout))
}

/// y ← y + bias. y [M, N], bias `[N]`.
pub(crate) fn add_bias(
    cuda: &Cuda,
    dtype: DType,
    [rows, width]: [usize; 2],
    bias: u64,
    y: u64,
) -> Result<()> {
    bias_activation(cuda, dtype, [1, rows, width], [y, bias, y], (false, None))
}

/// g ← gelu′(pre) · dropout(dy), all [M, N], and db ← Σ_M g if requested.
pub(crate) fn gelu_backward(
    cuda: &Cuda,
    dtype: DType,
    [m, n]: [usize; 2],
    dropout: Option<Dropout>,
    [pre, dy, g]: [u64; 3],
    db: Option<u64>,
) -> Result<()> {
    const OP: &str = "linear_backward";
    let samples = dropout.map_or(1, |dropout| dropout.samples);
    let [rows, width] = if db.is_some() { [m / samples, n] } else { [1, m * n / samples] };
    let wide = vectorizable(&[pre, dy, g], width, &[], lanes(dtype));
    let per_chunk = if db.is_some() { rows_per_partial_sum(m) } else { ROWS };
    let partition = RowPartition::new([samples, rows, width], if wide { lanes(dtype) } else { 1 }, per_chunk);
    let sums = db.map(|_| cuda.scratch(OP, partition.chunks() * width * size_of::<f32>())).transpose()?;
    let sums_address = sums.as_ref().map_or(0, Memory::address);
    let dropout = DropoutParams::new(OP, dropout, samples)?;
    let params = GeluBackwardParams { address: [pre, dy, g, sums_address], partition, dropout };
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
