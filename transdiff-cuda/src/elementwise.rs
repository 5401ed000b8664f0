//! Elementwise arithmetic.

use transdiff_core::Result;
use transdiff_core::backend::{BinaryOp, UnaryOp};

use crate::device::{Address, Cuda, In, Out};
use crate::driver::Params;
use crate::walk::{Plan, Walk};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct UnaryParams {
    walk: Walk<2>,
    op: u32,
    mul: f32,
    add: f32,
}

// SAFETY: the fields of `UnaryParams` in elementwise.cu.
unsafe impl Params for UnaryParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BinaryParams {
    walk: Walk<3>,
    op: u32,
}

// SAFETY: the fields of `BinaryParams` in elementwise.cu.
unsafe impl Params for BinaryParams {}

/// The kernels' number of a function; the affine one has the number after.
fn unary_number(op: UnaryOp) -> u32 {
    match op {
        UnaryOp::Silu => 0,
        UnaryOp::Square => 1,
        UnaryOp::Rsqrt => 2,
    }
}

const AFFINE: u32 = 3;

/// Functions of two numbers come after the slopes, which have the numbers of their functions.
fn binary_number(op: BinaryOp) -> u32 {
    match op {
        BinaryOp::Add => 3,
        BinaryOp::Sub => 4,
        BinaryOp::Mul => 5,
    }
}

/// A walk in vectors of 16 bytes if it can be, and whether it is.
fn walk<const N: usize>(op: &'static str, inputs: [In<'_>; N], out: &Out<'_>) -> Result<(Walk<N>, bool)> {
    let size = out.dtype.size();
    let (mut layouts, mut address) = (inputs.map(|x| x.layout), inputs.map(|x| x.address()));
    (layouts[N - 1], address[N - 1]) = (out.layout, out.address());
    let plan = Plan::new(layouts, address, [size; N]);
    let wide = plan.fits(16 / size, true);
    Ok((plan.walk(op, if wide { 16 / size } else { 1 })?, wide))
}

fn map(
    cuda: &Cuda,
    name: &'static str,
    op: u32,
    [mul, add]: [f64; 2],
    x: In<'_>,
    out: Out<'_>,
) -> Result<()> {
    let (walk, wide) = walk(name, [x, x], &out)?;
    let params = UnaryParams { walk, op, mul: mul as f32, add: add as f32 };
    let kernel = vector_kernel!(name, "elementwise", "unary", wide, x.dtype)?;
    cuda.launch(name, kernel, walk.launch(), &params)
}

fn zip(cuda: &Cuda, name: &'static str, op: u32, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    let (walk, wide) = walk(name, [a, b, a], &out)?;
    let kernel = vector_kernel!(name, "elementwise", "binary", wide, a.dtype)?;
    cuda.launch(name, kernel, walk.launch(), &BinaryParams { walk, op })
}

pub(crate) fn unary(cuda: &Cuda, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
    map(cuda, "unary", unary_number(op), [1.0, 0.0], x, out)
}

pub(crate) fn unary_backward(cuda: &Cuda, op: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
    zip(cuda, "unary_backward", unary_number(op), x, dy, dx)
}

pub(crate) fn binary(cuda: &Cuda, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    zip(cuda, "binary", binary_number(op), a, b, out)
}

pub(crate) fn affine(cuda: &Cuda, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
    map(cuda, "affine", AFFINE, [mul, add], x, out)
}
