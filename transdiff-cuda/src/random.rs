//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn dropout(cuda: &Cuda, x: In<'_>, dropout: Dropout, y: Out<'_>) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
