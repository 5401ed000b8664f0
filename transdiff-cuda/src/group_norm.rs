//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    affine: (In<'_>, In<'_>),
    groups: usize,
    eps: f64,
    map: Out<'_>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
