//! A computation that is asked for again and again: done once, then recorded, then replayed.

use crate::{Backend, Error, Result, Tensor};

/// A function of `N` tensors whose shapes and types stay, and of nothing else that changes. A device that
/// [records](crate::backend::Storage::capture) does it in one go from the second time on.
#[derive(Debug)]
pub(crate) enum GraphCache<B: Backend, const N: usize> {
    Cold,
    /// Done once. What a device prepares when it first meets an operation is not to be recorded.
    Warm,
    /// The device does not record, or has no room for what a recording keeps to itself.
    Eager,
    Captured(CapturedGraph<B, N>),
}

/// The function from `inputs`, which stay where they are in memory, to `output`.
#[derive(Debug)]
pub(crate) struct CapturedGraph<B: Backend, const N: usize> {
    inputs: Vec<Tensor<B>>,
    output: Tensor<B>,
    graph: B::Graph,
}

impl<B: Backend, const N: usize> GraphCache<B, N> {
    /// The function `work` at `inputs`, in a tensor of its own. `work` is the same every time.
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

    /// The next launch writes to `output`, and callers may hold this result by then: it is a copy.
    fn launch(&mut self, inputs: [&Tensor<B>; N]) -> Result<Tensor<B>> {
        for (own, input) in self.inputs.iter_mut().zip(inputs) {
            own.overwrite(input)?;
        }
        self.output.backend().launch(&self.graph)?;
        self.output.copy()
    }
}
