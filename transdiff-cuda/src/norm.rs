//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(
    cuda: &Cuda,
    args: NormArgs<'_, Cuda>,
    y: Out<'_>,
    stats: Option<Out<'_>>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn backward(
    cuda: &Cuda,
    args: NormArgs<'_, Cuda>,
    stats: In<'_>,
    dy: In<'_>,
    grads: NormGrads<'_, Cuda>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
