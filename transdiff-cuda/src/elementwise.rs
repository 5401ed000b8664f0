//! Launches of `kernels/elementwise.cu`: elementwise arithmetic.

use transdiff_core::Result;
use transdiff_core::backend::{BinaryOp, UnaryOp};

use crate::device::{Address, Cuda, In, Out, lanes};
use crate::driver::Params;
use crate::strided_indexer::{StridedIndexer, StridedPlan};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct UnaryParams {
    indexer: StridedIndexer<2>,
    op: u32,
    mul: f32,
    add: f32,
}

// SAFETY: same layout as `UnaryParams` in elementwise.cu.
unsafe impl Params for UnaryParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BinaryParams {
    indexer: StridedIndexer<3>,
    op: u32,
}

// SAFETY: same layout as `BinaryParams` in elementwise.cu.
unsafe impl Params for BinaryParams {}

/// Op code of a unary function in the kernels; [`AFFINE`] follows.
fn unary_code(op: UnaryOp) -> u32 {
    match op {
        UnaryOp::Silu => 0,
        UnaryOp::Square => 1,
        UnaryOp::Rsqrt => 2,
    }
}

const AFFINE: u32 = 3;

/// Op code of a binary function in the kernels; derivatives come first, with the codes of their functions.
fn binary_code(op: BinaryOp) -> u32 {
    match op {
        BinaryOp::Add => 3,
        BinaryOp::Sub => 4,
        BinaryOp::Mul => 5,
    }
}

/// The common indexer of all operands, and whether it indexes vectors of 16 bytes.
fn indexer<const N: usize>(
    op: &'static str,
    inputs: [In<'_>; N],
    out: &Out<'_>,
) -> Result<(StridedIndexer<N>, bool)> {
    let (size, lanes) = (out.dtype.size(), lanes(out.dtype));
    let (mut layouts, mut address) = (inputs.map(|x| x.layout), inputs.map(|x| x.address()));
    (layouts[N - 1], address[N - 1]) = (out.layout, out.address());
    let plan = StridedPlan::new(layouts, address, [size; N]);
    let wide = plan.fits(lanes, true);
    Ok((plan.indexer(op, if wide { lanes } else { 1 })?, wide))
}

fn map(
    cuda: &Cuda,
    name: &'static str,
    op: u32,
    [mul, add]: [f64; 2],
    x: In<'_>,
    out: Out<'_>,
) -> Result<()> {
    let (indexer, wide) = indexer(name, [x, x], &out)?;
    let params = UnaryParams { indexer, op, mul: mul as f32, add: add as f32 };
    let kernel = vector_kernel!(name, "elementwise", "unary", wide, x.dtype)?;
    cuda.launch_kernel(name, kernel, indexer.launch_config(), &params)
}

fn zip(cuda: &Cuda, name: &'static str, op: u32, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    let (indexer, wide) = indexer(name, [a, b, a], &out)?;
    let kernel = vector_kernel!(name, "elementwise", "binary", wide, a.dtype)?;
    cuda.launch_kernel(name, kernel, indexer.launch_config(), &BinaryParams { indexer, op })
}

pub(crate) fn unary(cuda: &Cuda, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
    map(cuda, "unary", unary_code(op), [1.0, 0.0], x, out)
}

pub(crate) fn unary_backward(cuda: &Cuda, op: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
    zip(cuda, "unary_backward", unary_code(op), x, dy, dx)
}

pub(crate) fn binary(cuda: &Cuda, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    zip(cuda, "binary", binary_code(op), a, b, out)
}

pub(crate) fn affine(cuda: &Cuda, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
    map(cuda, "affine", AFFINE, [mul, add], x, out)
}
