//! Tensors with a place on a tape.

use super::gradients::{GradKey, Gradients};
use super::tape::{Tape, Vjp};
use crate::{Backend, Error, Result, Tensor};

/// A tensor that may be recorded on a tape. Its operations are in `super::vjp`.
#[derive(Debug)]
pub struct Var<B: Backend> {
    value: Tensor<B>,
    node: Option<(Tape<B>, usize)>,
}

impl<B: Backend> Clone for Var<B> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), node: self.node.clone() }
    }
}

impl<B: Backend> From<Tensor<B>> for Var<B> {
    fn from(value: Tensor<B>) -> Self {
        Self::constant(value)
    }
}

impl<B: Backend> Var<B> {
    /// A variable without a gradient.
    pub fn constant(value: Tensor<B>) -> Self {
        Self { value, node: None }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }

    /// The tensor, without a clone.
    pub fn into_value(self) -> Tensor<B> {
        self.value
    }

    /// Size of every axis.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Size of one axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.value.dim(axis)
    }

    /// Returns whether operations on the variable are recorded.
    pub fn is_recorded(&self) -> bool {
        self.node.is_some()
    }

    /// The same tensor as a constant.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// Number of the variable's node on `tape`; `None` for a constant.
    fn node_on(&self, tape: &Tape<B>) -> Result<Option<usize>> {
        match &self.node {
            Some((own, _)) if own.is_consumed() => {
                let expected = "one whose tape has not been differentiated yet";
                Err(Error::argument("variable", expected, "one of a consumed tape"))
            }
            Some((own, id)) if own.is(tape) => Ok(Some(*id)),
            Some(_) => Err(Error::argument("variable", "one of this tape", "one of another tape")),
            None => Ok(None),
        }
    }
}

impl<B: Backend> Tape<B> {
    /// A variable whose gradient is found under `key`.
    pub fn leaf(&self, key: GradKey, value: Tensor<B>) -> Var<B> {
        Var { value, node: Some((self.clone(), self.push_leaf(key))) }
    }

    /// A variable for `value`, with a new key.
    pub fn input(&self, value: Tensor<B>) -> (Var<B>, GradKey) {
        let key = GradKey::unique();
        (self.leaf(key, value), key)
    }

    /// Records the operation on `inputs` with the result `value`.
    pub(super) fn record(
        &self,
        value: Tensor<B>,
        inputs: &[&Var<B>],
        vjp: Box<dyn Vjp<B>>,
    ) -> Result<Var<B>> {
        let inputs = inputs.iter().map(|v| v.node_on(self)).collect::<Result<_>>()?;
        Ok(Var { value, node: Some((self.clone(), self.push_op(inputs, vjp))) })
    }

    /// Gradients of the scalar `loss` for every leaf that it depends on. Consumes the tape: a second call, and
    /// operations on its variables, are errors.
    pub fn backward(&self, loss: &Var<B>) -> Result<Gradients<B>> {
        let mut grads = Gradients::new();
        self.backward_into(loss, &mut grads)?;
        Ok(grads)
    }

    /// Adds to `grads` the gradients of the scalar `loss` for every leaf that it depends on. Consumes the tape.
    pub fn backward_into(&self, loss: &Var<B>, grads: &mut Gradients<B>) -> Result<()> {
        if loss.value().numel() != 1 {
            return Err(Error::shape("backward", "a loss of one element", loss.shape()));
        }
        let value = loss.value();
        let one = Tensor::full(value.backend(), value.shape(), 1.0, value.dtype())?;
        self.backward_from(loss, one, grads)
    }

    /// Adds to `grads` the gradients of every leaf, from the gradient `dy` of `output`. Consumes the tape.
    pub(super) fn backward_from(
        &self,
        output: &Var<B>,
        dy: Tensor<B>,
        grads: &mut Gradients<B>,
    ) -> Result<()> {
        output.node_on(self)?.map_or(Ok(()), |root| self.run_backward(root, dy, grads))
    }
}

/// Returns whether an operation on `inputs` is recorded, and so has to save tensors for its backward pass.
pub(super) fn recorded<B: Backend>(inputs: &[&Var<B>]) -> bool {
    inputs.iter().any(|v| v.is_recorded())
}

/// The variable for the result `value` of an operation on `inputs`; `vjp` is called only if it is recorded.
pub(super) fn record<B: Backend, V: Vjp<B> + 'static>(
    value: Tensor<B>,
    inputs: &[&Var<B>],
    vjp: impl FnOnce() -> V,
) -> Result<Var<B>> {
    match inputs.iter().find_map(|v| v.node.as_ref()) {
        Some((tape, _)) => tape.record(value, inputs, Box::new(vjp())),
        None => Ok(Var::constant(value)),
    }
}
