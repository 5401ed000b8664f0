//! Gated residual connections.

use super::array::{Output, Tensor};
use super::optional::{Grad, finish, view_of};
use crate::backend::Backend;
use crate::rng::Dropout;
use crate::{Error, Result};

/// Checks the settings of a dropout, and that its samples are equal parts of the leading axis of `shape`.
pub(super) fn check_dropout(op: &'static str, dropout: Option<Dropout>, shape: &[usize]) -> Result<()> {
    let Some(dropout) = dropout else { return Ok(()) };
    dropout.validate()?;
    if shape.first().unwrap_or(&1).is_multiple_of(dropout.samples) {
        return Ok(());
    }
    let expected = format!("a leading axis that {} samples of a dropout divide equally", dropout.samples);
    Err(Error::shape(op, expected, shape))
}

impl<B: Backend> Tensor<B> {
    /// self + gate · dropout(u); with a gate, [G, 1, D] or [1, 1, D], self and u are [G, R, D]. The samples of the dropout
    /// are equal parts of the leading axis. self, and with it the output, may be of the type of u and gate, or of its
    /// [accumulator](crate::DType::accumulator)'s.
    pub fn gated_residual(&self, u: &Self, gate: Option<&Self>, dropout: Option<Dropout>) -> Result<Self> {
        const OP: &str = "gated_residual";
        u.expect_float(OP)?;
        u.expect_stream(OP, self)?;
        u.expect_shape(OP, "u", self.shape())?;
        check_dropout(OP, dropout, self.shape())?;
        let dims = u.groups(OP, gate.is_some())?;
        let gate = gate.map(|g| g.per_group(OP, u, dims)).transpose()?;
        let (x, u) = (self.contiguous()?.reshape(&dims)?, u.contiguous()?.reshape(&dims)?);
        let mut y = Output::new(&self.backend, self.dtype, &dims)?;
        let gate = gate.as_ref().map(Self::view);
        self.backend.gated_residual(x.view(), u.view(), gate, dropout, y.view())?;
        y.finish(&self.backend).reshape(self.shape())
    }

    /// Gradients (du, dgate [G, 1, D]) of [`gated_residual`](Self::gated_residual) with u = `self`, of its type; dy is of
    /// the type of the output.
    pub fn gated_residual_backward(
        &self,
        gate: Option<&Self>,
        dropout: Option<Dropout>,
        dy: &Self,
        gate_wanted: bool,
    ) -> Result<[Grad<B>; 2]> {
        const OP: &str = "gated_residual_backward";
        self.expect_float(OP)?;
        self.expect_stream(OP, dy)?;
        dy.expect_shape(OP, "dy", self.shape())?;
        check_dropout(OP, dropout, self.shape())?;
        let dims = self.groups(OP, gate.is_some())?;
        let gate = gate.map(|g| g.per_group(OP, self, dims)).transpose()?;
        let (u, dy) = (self.contiguous()?.reshape(&dims)?, dy.contiguous()?.reshape(&dims)?);
        let mut du = Output::new(&self.backend, self.dtype, &dims)?;
        let mut dgate = self.output_if(gate_wanted && gate.is_some(), &[dims[0], dims[2]])?;
        let gate = gate.as_ref().map(Self::view);
        let (du_view, dgate_view) = (du.view(), view_of(&mut dgate));
        self.backend.gated_residual_backward(u.view(), gate, dropout, dy.view(), du_view, dgate_view)?;
        let dgate = finish(dgate, &self.backend).map(|t| t.reshape(&[dims[0], 1, dims[2]])).transpose()?;
        Ok([Some(du.finish(&self.backend).reshape(self.shape())?), dgate])
    }
}
