//! Residual connections.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record};
use crate::rng::Dropout;
use crate::{Backend, Result, Tensor};

type Grads<B> = Result<Vec<Option<Tensor<B>>>>;

/// Saves the branch and its gate; the dropout mask is recomputed.
struct GatedResidual<B: Backend> {
    u: Tensor<B>,
    gate: Option<Tensor<B>>,
    dropout: Option<Dropout>,
}

impl<B: Backend> Vjp<B> for GatedResidual<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Grads<B> {
        let gate_wanted = inputs.is_wanted(2);
        let [du, dgate] =
            self.u.gated_residual_backward(self.gate.as_ref(), self.dropout, &dy, gate_wanted)?;
        let mut out = vec![Some(dy), du];
        if let Some(gate) = &self.gate {
            // A gate shared by all images sums the gradients of each.
            out.push(dgate.map(|g| g.sum_to(gate.shape())).transpose()?);
        }
        Ok(out)
    }
}

impl<B: Backend> Var<B> {
    /// self + gate · dropout(u); see [`Tensor::gated_residual`].
    pub fn gated_residual(&self, u: &Self, gate: Option<&Self>, dropout: Option<Dropout>) -> Result<Self> {
        let y = self.value().gated_residual(u.value(), gate.map(Self::value), dropout)?;
        let inputs: Vec<&Self> = [self, u].into_iter().chain(gate).collect();
        record(y, &inputs, || GatedResidual {
            u: u.value().clone(),
            gate: gate.map(|g| g.value().clone()),
            dropout,
        })
    }
}
