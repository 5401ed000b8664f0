//! A tensor and its place on a tape.

use super::{Tape, Vjp};
use crate::{Backend, Error, Result, Tensor};

/// A tensor that may be part of a recording. Its operations are in `super::vjp`.
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
    /// A variable that no gradient flows into.
    pub fn constant(value: Tensor<B>) -> Self {
        Self { value, node: None }
    }

    pub(super) fn at(value: Tensor<B>, tape: Tape<B>, id: usize) -> Self {
        Self { value, node: Some((tape, id)) }
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

    /// Whether operations on the variable are recorded.
    pub fn is_recorded(&self) -> bool {
        self.node.is_some()
    }

    /// The same tensor, cut off from its recording.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// The variable's node on `tape`.
    pub(super) fn node_on(&self, tape: &Tape<B>) -> Result<Option<usize>> {
        match &self.node {
            Some((own, _)) if own.is_consumed() => {
                let expected = "one whose recording has not been differentiated yet";
                Err(Error::argument("variable", expected, "one of a consumed tape"))
            }
            Some((own, id)) if own.is(tape) => Ok(Some(*id)),
            Some(_) => Err(Error::argument("variable", "one of this tape", "one of another tape")),
            None => Ok(None),
        }
    }
}

/// Whether an operation on `inputs` will be recorded: then it saves what its backward pass needs.
pub(super) fn recorded<B: Backend>(inputs: &[&Var<B>]) -> bool {
    inputs.iter().any(|v| v.is_recorded())
}

/// The variable for the result `value` of an operation on `inputs`; `vjp` is made only if it is recorded.
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
