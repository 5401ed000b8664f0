//! Cached graph of a repeated computation: run once, captured the second time, then launched.

use super::array::Tensor;
use crate::backend::Backend;
use crate::{Error, Result};

/// Cache for a function of `N` tensors of constant shapes and types, and of nothing else that changes. A device that
/// supports [graphs](crate::backend::Storage::capture) launches it as a graph from the second time on.
#[derive(Debug)]
pub(crate) enum GraphCache<B: Backend, const N: usize> {
    /// Not run yet.
    Cold,
    /// Run once: what a device initialises at the first use of an operation is not captured.
    Warm,
    /// The device does not support graphs, or has no memory for the buffers of one.
    Eager,
    /// Captured: launched from now on.
    Captured(CapturedGraph<B, N>),
}

/// Graph that reads `inputs` and writes `output`, whose addresses are constant.
#[derive(Debug)]
pub(crate) struct CapturedGraph<B: Backend, const N: usize> {
    inputs: Vec<Tensor<B>>,
    output: Tensor<B>,
    graph: B::Graph,
}

impl<B: Backend, const N: usize> GraphCache<B, N> {
    /// Runs `work`, the same function every time, on `inputs`. The result is a new tensor.
    pub(crate) fn run(
        &mut self,
        inputs: [&Tensor<B>; N],
        work: impl Fn([&Tensor<B>; N]) -> Result<Tensor<B>>,
    ) -> Result<Tensor<B>> {
        if matches!(self, Self::Warm) {
            *self = match CapturedGraph::new(inputs, &work) {
                Err(Error::OutOfMemory { .. }) => Self::Eager,
                captured => captured?.map_or(Self::Eager, Self::Captured),
            };
        }
        match self {
            Self::Captured(captured) => captured.launch(inputs),
            Self::Warm | Self::Eager => work(inputs),
            Self::Cold => {
                let output = work(inputs)?;
                *self = Self::Warm;
                Ok(output)
            }
        }
    }
}

impl<B: Backend, const N: usize> CapturedGraph<B, N> {
    fn new(
        inputs: [&Tensor<B>; N],
        work: impl Fn([&Tensor<B>; N]) -> Result<Tensor<B>>,
    ) -> Result<Option<Self>> {
        let own = inputs.iter().map(|input| input.copy()).collect::<Result<Vec<_>>>()?;
        let Some(backend) = own.first().map(|input| input.backend().clone()) else { return Ok(None) };
        let mut output = None;
        let graph = backend.capture(&mut || {
            output = Some(work(std::array::from_fn(|i| &own[i]))?);
            Ok(())
        })?;
        Ok(graph.zip(output).map(|(graph, output)| Self { inputs: own, output, graph }))
    }

    /// Returns a copy of `output`, which the next launch overwrites.
    fn launch(&mut self, inputs: [&Tensor<B>; N]) -> Result<Tensor<B>> {
        for (own, input) in self.inputs.iter_mut().zip(inputs) {
            own.overwrite(input)?;
        }
        self.output.backend().launch(&self.graph)?;
        self.output.copy()
    }
}
