//! Launches of `kernels/residual.cu`: gated residuals with dropout.

use transdiff_core::Result;
use transdiff_core::rng::Dropout;

use crate::device::{Address, Cuda, DropoutParams, In, Memory, Out, address_of, lanes, vectorizable};
use crate::driver::Params;
use crate::reduce::Columns;
use crate::row_partition::{RowPartition, rows_per_partial_sum};

/// Rows per thread of the forward pass: `RESIDUAL_ROWS` of residual.cu.
const ROWS: usize = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    address: [u64; 4],
    gate_stride: u64,
    partition: RowPartition,
    dropout: DropoutParams,
}

// SAFETY: same layout as `ResidualParams` in residual.cu.
unsafe impl Params for ForwardParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    address: [u64; 5],
    gate_stride: u64,
    partition: RowPartition,
    dropout: DropoutParams,
}

// SAFETY: same layout as `ResidualBackwardParams` in residual.cu.
unsafe impl Params for BackwardParams {}

/// Returns [G, R, D] of a view; without a gate the rows of a sample are equivalent and count as one.
fn size(x: &In<'_>, gate: Option<&In<'_>>, dropout: Option<Dropout>) -> [usize; 3] {
    let samples = dropout.map_or(1, |dropout| dropout.samples);
    match x.layout.shape() {
        &[g, r, d] if gate.is_some() => [g, r, d],
        _ => [samples, 1, x.layout.numel() / samples],
    }
}

/// Elements between the gates of consecutive groups; 0 if absent.
fn gate_stride(gate: Option<&In<'_>>) -> u64 {
    gate.map_or(0, |gate| gate.layout.strides()[0] as u64)
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
    let (size, lanes) = (size(&x, gate.as_ref(), dropout), lanes(u.dtype));
    let address = [x.address(), u.address(), address_of(gate.as_ref()), y.address()];
    let gate_stride = gate_stride(gate.as_ref());
    let wide = vectorizable(&address, size[2], &[gate_stride], lanes);
    let partition = RowPartition::new(size, if wide { lanes } else { 1 }, ROWS);
    let dropout = DropoutParams::new(OP, dropout, size[0])?;
    let params = ForwardParams { address, gate_stride, partition, dropout };
    cuda.launch_kernel(
        OP,
        stream_kernel!(OP, "residual", "gated_residual", wide, x.dtype, u.dtype)?,
        partition.launch_config(),
        &params,
    )
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
    let ([groups, rows, width], lanes) = (size(&u, gate.as_ref(), dropout), lanes(u.dtype));
    let u_address = if dgate.is_some() { u.address() } else { 0 };
    let addresses = [u_address, address_of(gate.as_ref()), dy.address(), du.address()];
    let gate_stride = gate_stride(gate.as_ref());
    let wide = vectorizable(&addresses, width, &[gate_stride], lanes);
    let per_chunk = if dgate.is_some() { rows_per_partial_sum(groups * rows) } else { ROWS };
    let partition = RowPartition::new([groups, rows, width], if wide { lanes } else { 1 }, per_chunk);
    let sums = dgate
        .as_ref()
        .map(|_| cuda.scratch(OP, partition.chunks() * width * size_of::<f32>()))
        .transpose()?;
    let [u_address, gate_address, dy_address, du_address] = addresses;
    let sums_address = sums.as_ref().map_or(0, Memory::address);
    let params = BackwardParams {
        address: [u_address, gate_address, dy_address, du_address, sums_address],
        gate_stride,
        partition,
        dropout: DropoutParams::new(OP, dropout, groups)?,
    };
    let kernel = stream_kernel!(OP, "residual", "gated_residual_backward", wide, dy.dtype, u.dtype)?;
    cuda.launch_kernel(OP, kernel, partition.launch_config(), &params)?;
    let Some(dgate) = dgate else { return Ok(()) };
    Columns::new(sums_address, [groups, partition.chunks_per_group(), width]).sum(
        cuda,
        OP,
        dgate.address(),
        dgate.dtype,
    )
}
