//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn forward(
    cuda: &Cuda,
    args: AttentionArgs<'_, Cuda>,
    y: Out<'_>,
    lse: Option<Out<'_>>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
