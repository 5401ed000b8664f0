//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn unary(cuda: &Cuda, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn unary_backward(cuda: &Cuda, op: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn binary(cuda: &Cuda, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn affine(cuda: &Cuda, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
