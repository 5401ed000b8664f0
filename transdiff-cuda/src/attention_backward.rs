//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn backward(
    cuda: &Cuda,
    args: AttentionArgs<'_, Cuda>,
    y: In<'_>,
    lse: In<'_>,
    dy: In<'_>,
    grads: AttentionGrads<'_, Cuda>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
