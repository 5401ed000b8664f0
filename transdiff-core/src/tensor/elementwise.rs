//! Elementwise arithmetic, sums and matrix products.

use super::array::{Output, Tensor};
use crate::backend::{Backend, BinaryOp, UnaryOp};
use crate::layout::broadcast_shape;
use crate::{Error, Result};

impl<B: Backend> Tensor<B> {
    /// Applies `op` to all elements.
    pub fn unary(&self, op: UnaryOp) -> Result<Self> {
        self.expect_float("unary")?;
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.unary(op, self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// op′(self) · dy.
    pub fn unary_backward(&self, op: UnaryOp, dy: &Self) -> Result<Self> {
        self.expect_float("unary_backward")?;
        self.expect_dtype("unary_backward", dy)?;
        dy.expect_shape("unary_backward", "dy", self.shape())?;
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.unary_backward(op, self.view(), dy.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Applies `op` to the elements of two tensors, broadcast against each other. The result is in their memory order if
    /// they have the same, without gaps.
    pub fn binary(&self, op: BinaryOp, other: &Self) -> Result<Self> {
        self.expect_float("binary")?;
        self.expect_dtype("binary", other)?;
        let shape = broadcast_shape("binary", self.shape(), other.shape())?;
        let (a, b) = (self.broadcast_to(&shape)?, other.broadcast_to(&shape)?);
        let mut out = match a.is_dense() && b.steps_as(&a.dense_layout()?) {
            true => Output::like(&a, self.dtype)?,
            false => Output::new(&self.backend, self.dtype, &shape)?,
        };
        self.backend.binary(op, a.view(), b.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// self + other.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Add, other)
    }

    /// self − other.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Sub, other)
    }

    /// self · other.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Mul, other)
    }

    /// mul · self + add.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        self.expect_float("affine")?;
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.affine(self.view(), mul, add, out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Sums over `axes`, which stay with size 1.
    pub fn sum(&self, axes: &[usize]) -> Result<Self> {
        let mut shape = self.shape().to_vec();
        for &axis in axes {
            *shape
                .get_mut(axis)
                .ok_or_else(|| Error::shape("sum", format!("an axis {axis}"), self.shape()))? = 1;
        }
        self.sum_keeping(&shape)
    }

    /// Sums to `shape`, the adjoint of [`broadcast_to`](Self::broadcast_to).
    pub fn sum_to(&self, shape: &[usize]) -> Result<Self> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let bad = || Error::shape("sum_to", format!("a shape that {shape:?} broadcasts to"), self.shape());
        let added = self.layout.rank().checked_sub(shape.len()).ok_or_else(bad)?;
        let mut kept = vec![1; added];
        kept.extend_from_slice(shape);
        if kept.iter().zip(self.shape()).any(|(&to, &from)| to != from && to != 1) {
            return Err(bad());
        }
        self.sum_keeping(&kept)?.reshape(shape)
    }

    fn sum_keeping(&self, shape: &[usize]) -> Result<Self> {
        self.expect_float("sum")?;
        let mut out = Output::new(&self.backend, self.dtype, shape)?;
        self.backend.sum(self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Mean of all elements, a tensor of shape [].
    pub fn mean(&self) -> Result<Self> {
        let axes: Vec<usize> = (0..self.layout.rank()).collect();
        self.sum(&axes)?.affine(1.0 / self.numel() as f64, 0.0)?.reshape(&[])
    }

    /// Matrix product over the last two axes: [.., M, K] · [.., K, N] → [.., M, N]; leading axes broadcast.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        self.expect_float("matmul")?;
        self.expect_dtype("matmul", other)?;
        let (ra, rb) = (self.layout.rank(), other.layout.rank());
        if ra < 2 || rb < 2 || self.dim(ra - 1) != other.dim(rb - 2) {
            let expected = format!("[.., M, K] for [.., K, N] = {:?}", other.shape());
            return Err(Error::shape("matmul", expected, self.shape()));
        }
        let lead = broadcast_shape("matmul", &self.shape()[..ra - 2], &other.shape()[..rb - 2])?;
        let full = |rows: usize, cols: usize| [&lead[..], &[rows, cols]].concat();
        let (m, k, n) = (self.dim(ra - 2), self.dim(ra - 1), other.dim(rb - 1));
        let (a, b) = (self.broadcast_to(&full(m, k))?, other.broadcast_to(&full(k, n))?);
        let mut out = Output::new(&self.backend, self.dtype, &full(m, n))?;
        self.backend.matmul(a.view(), b.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }
}
