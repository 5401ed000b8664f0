//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    u: In<'_>,
    gate: Option<In<'_>>,
    dropout: Option<Dropout>,
    y: Out<'_>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
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
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
