//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(cuda: &Cuda, a: In<'_>, b: In<'_>, loss: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn backward(cuda: &Cuda, a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
