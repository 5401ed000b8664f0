//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn fill(cuda: &Cuda, value: f64, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn copy(cuda: &Cuda, x: In<'_>, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn cast(cuda: &Cuda, x: In<'_>, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
