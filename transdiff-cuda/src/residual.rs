//! Gated residuals with dropout.

use transdiff_core::Result;
use transdiff_core::rng::Dropout;

use crate::device::{Address, Cuda, DropoutParams, In, Memory, Out, address_of, aligned};
use crate::driver::Params;
use crate::reduce::Columns;
use crate::tiles::{Tiles, rows_of_sums};

/// Rows that a thread of the forward pass has: `RESIDUAL_ROWS` of residual.cu.
const ROWS: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    address: [u64; 4],
    gate_stride: u64,
    tiles: Tiles,
    dropout: DropoutParams,
}

// SAFETY: the fields of `ResidualParams` in residual.cu.
unsafe impl Params for ForwardParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    address: [u64; 5],
    gate_stride: u64,
    tiles: Tiles,
    dropout: DropoutParams,
}

// SAFETY: the fields of `ResidualBackwardParams` in residual.cu.
unsafe impl Params for BackwardParams {}

/// [G, R, D] of a view of this shape; without a gate nothing keeps rows apart, and all are one.
fn size(x: &In<'_>, gate: Option<&In<'_>>) -> [usize; 3] {
    match x.layout.shape() {
        &[g, r, d] if gate.is_some() => [g, r, d],
        shape => [1, 1, shape.iter().product()],
    }
}

/// Elements from a group's gate to the next's.
fn gate_stride(gate: Option<&In<'_>>) -> u64 {
    gate.map_or(0, |gate| gate.layout.strides()[0] as u64)
}

/// Whether all can be read in vectors of 16 bytes.
fn in_vectors(addresses: &[u64], width: usize, gate_stride: u64, lanes: usize) -> bool {
    aligned(addresses) && width.is_multiple_of(lanes) && gate_stride.is_multiple_of(lanes as u64)
}

pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    u: In<'_>,
    gate: Option<In<'_>>,
    dropout: Option<Dropout>,
    y: Out<'_>,
) -> Result<()> {
    const OP: &str = "gated_residual";
    let (size, lanes) = (size(&x, gate.as_ref()), 16 / x.dtype.size());
    let address = [x.address(), u.address(), address_of(gate.as_ref()), y.address()];
    let gate_stride = gate_stride(gate.as_ref());
    let wide = in_vectors(&address, size[2], gate_stride, lanes);
    let tiles = Tiles::new(size, if wide { lanes } else { 1 }, ROWS);
    let params = ForwardParams { address, gate_stride, tiles, dropout: DropoutParams::new(dropout) };
    cuda.launch(OP, vector_kernel!(OP, "residual", "gated_residual", wide, x.dtype)?, tiles.launch(), &params)
}

pub(crate) fn backward(
    cuda: &Cuda,
    u: In<'_>,
    gate: Option<In<'_>>,
    dropout: Option<Dropout>,
    dy: In<'_>,
    du: Out<'_>,
    dgate: Option<Out<'_>>,
) -> Result<()> {
    const OP: &str = "gated_residual_backward";
    let ([groups, rows, width], lanes) = (size(&u, gate.as_ref()), 16 / u.dtype.size());
    let read = if dgate.is_some() { u.address() } else { 0 };
    let addresses = [read, address_of(gate.as_ref()), dy.address(), du.address()];
    let gate_stride = gate_stride(gate.as_ref());
    let wide = in_vectors(&addresses, width, gate_stride, lanes);
    let per_chunk = if dgate.is_some() { rows_of_sums(groups * rows) } else { ROWS };
    let tiles = Tiles::new([groups, rows, width], if wide { lanes } else { 1 }, per_chunk);
    let sums =
        dgate.as_ref().map(|_| cuda.scratch(OP, tiles.chunks() * width * size_of::<f32>())).transpose()?;
    let [u_address, gate_address, dy_address, du_address] = addresses;
    let sums_address = sums.as_ref().map_or(0, Memory::address);
    let params = BackwardParams {
        address: [u_address, gate_address, dy_address, du_address, sums_address],
        gate_stride,
        tiles,
        dropout: DropoutParams::new(dropout),
    };
    let kernel = vector_kernel!(OP, "residual", "gated_residual_backward", wide, u.dtype)?;
    cuda.launch(OP, kernel, tiles.launch(), &params)?;
    let Some(dgate) = dgate else { return Ok(()) };
    Columns::new(sums_address, [groups, tiles.per_group(), width]).sum(cuda, OP, dgate.address(), dgate.dtype)
}
