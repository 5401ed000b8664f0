//! Stub.
#![allow(unused)]
use crate::device::{Cuda, In, Out};
use transdiff_core::{DType, Error, Result, backend::*, rng::Dropout};
/// y ← gelu(x), exact, of len elements
pub(crate) fn gelu(cuda: &Cuda, dtype: DType, len: usize, x: u64, y: u64) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
/// y [M, N] += bias [N]
pub(crate) fn add_bias(cuda: &Cuda, dtype: DType, size: [usize; 2], bias: u64, y: u64) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
/// g ← gelu'(pre)·dy [M, N], and db ← Σ_M g where wanted
pub(crate) fn gelu_backward(
    cuda: &Cuda,
    dtype: DType,
    size: [usize; 2],
    pre_and_dy: [u64; 2],
    g: u64,
    db: Option<u64>,
) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
/// db ← Σ_M g, g [M, N]
pub(crate) fn column_sum(cuda: &Cuda, dtype: DType, size: [usize; 2], g: u64, db: u64) -> Result<()> {
    Err(Error::Backend { op: "stub", message: "unwritten".into() })
}
