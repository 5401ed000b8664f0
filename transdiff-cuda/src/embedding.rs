//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(cuda: &Cuda, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn backward(cuda: &Cuda, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
