//! What surrounds the product of a linear layer: bias and activation, and their backward pass. Its kernels are in
//! linear.cu.

use transdiff_core::{DType, Result};

use crate::device::{Cuda, Memory, aligned};
use crate::driver::Params;
use crate::reduce::Columns;
use crate::tiles::{Tiles, rows_of_sums};

/// Rows that a thread has: `LINEAR_ROWS` of linear.cu.
const ROWS: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BiasActivationParams {
    /// x, bias, y.
    address: [u64; 3],
    tiles: Tiles,
    gelu: u32,
}

// SAFETY: the fields of `BiasActivationParams` in linear.cu.
unsafe impl Params for BiasActivationParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct GeluBackwardParams {
    /// pre, dy, g, and sums.
    address: [u64; 4],
    tiles: Tiles,
}

// SAFETY: the fields of `GeluBackwardParams` in linear.cu.
unsafe impl Params for GeluBackwardParams {}

/// Whether rows of `width` elements at these addresses can be read in vectors of 16 bytes.
fn in_vectors(dtype: DType, width: usize, addresses: &[u64]) -> bool {
    aligned(addresses) && width.is_multiple_of(16 / dtype.size())
}

/// The columns of a vector.
fn lanes(dtype: DType, wide: bool) -> usize {
    if wide { 16 / dtype.size() } else { 1 }
}

fn bias_activation(
    cuda: &Cuda,
    dtype: DType,
    [rows, width]: [usize; 2],
    address: [u64; 3],
    gelu: bool,
) -> Result<()> {
    const OP: &str = "linear";
    let wide = in_vectors(dtype, width, &address);
    let tiles = Tiles::new([1, rows, width], lanes(dtype, wide), ROWS);
    let params = BiasActivationParams { address, tiles, gelu: u32::from(gelu) };
    cuda.launch(OP, vector_kernel!(OP, "linear", "bias_activation", wide, dtype)?, tiles.launch(), &params)
}

/// y ← gelu(x), the exact one, of `len` elements; x and y may be one.
pub(crate) fn gelu(cuda: &Cuda, dtype: DType, len: usize, x: u64, y: u64) -> Result<()> {
    bias_activation(cuda, dtype, [1, len], [x, 0, y], true)
}

/// y ← y + bias: y [M, N], bias `[N]`.
pub(crate) fn add_bias(cuda: &Cuda, dtype: DType, size: [usize; 2], bias: u64, y: u64) -> Result<()> {
    bias_activation(cuda, dtype, size, [y, bias, y], false)
}

/// g ← gelu′(pre) · dy, all [M, N], and db ← Σ_M g where it is wanted.
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
    let wide = in_vectors(dtype, width, &[pre, dy, g]);
    let per_chunk = if db.is_some() { rows_of_sums(rows) } else { ROWS };
    let tiles = Tiles::new([1, rows, width], lanes(dtype, wide), per_chunk);
    let sums = db.map(|_| cuda.scratch(OP, tiles.chunks() * width * size_of::<f32>())).transpose()?;
    let sums_address = sums.as_ref().map_or(0, Memory::address);
    let params = GeluBackwardParams { address: [pre, dy, g, sums_address], tiles };
    cuda.launch(OP, vector_kernel!(OP, "linear", "gelu_backward", wide, dtype)?, tiles.launch(), &params)?;
    match db {
        Some(db) => Columns::new(sums_address, [1, tiles.chunks(), width]).sum(cuda, OP, db, dtype),
        None => Ok(()),
    }
}

/// db ← Σ_M g: g [M, N].
pub(crate) fn column_sum(
    cuda: &Cuda,
    dtype: DType,
    [rows, width]: [usize; 2],
    g: u64,
    db: u64,
) -> Result<()> {
    Columns { dtype, ..Columns::new(g, [1, rows, width]) }.sum(cuda, "linear_backward", db, dtype)
}
