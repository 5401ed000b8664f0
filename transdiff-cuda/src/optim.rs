//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
pub(crate) fn adamw_step(cuda: &Cuda, hyper: &AdamW, slots: &mut [AdamWSlot<'_, Cuda>]) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn ema_step(cuda: &Cuda, rate: f64, pairs: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
pub(crate) fn squared_norm(cuda: &Cuda, tensors: &[In<'_>]) -> Result<f64> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
