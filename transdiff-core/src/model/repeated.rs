//! A computation that is asked for again and again: done once, then recorded, then replayed.

use crate::{Backend, Error, Result, Tensor};

/// A function of `N` tensors whose shapes and types stay, and of nothing else that changes. A device that
/// [records](crate::backend::Storage::record) does it in one go from the second time on.
#[derive(Debug)]
pub(super) enum Repeated<B: Backend, const N: usize> {
    New,
    /// Done once. What a device prepares when it first meets an operation is not to be recorded.
    Known,
    /// The device does not record, or has no room for what a recording keeps to itself.
    Plain,
    Recorded(Recorded<B, N>),
}

/// The function from `inputs`, which stay where they are in memory, to `output`.
#[derive(Debug)]
pub(super) struct Recorded<B: Backend, const N: usize> {
    inputs: Vec<Tensor<B>>,
    output: Tensor<B>,
    recording: B::Recording,
}

impl<B: Backend, const N: usize> Repeated<B, N> {
    /// The function `work` at `inputs`, in a tensor of its own. `work` is the same every time.
    pub(super) fn run(
        &mut self,
        inputs: [&Tensor<B>; N],
        work: impl Fn([&Tensor<B>; N]) -> Result<Tensor<B>>,
    ) -> Result<Tensor<B>> {
        if matches!(self, Self::Known) {
            *self = match Recorded::new(inputs, &work) {
                Err(Error::OutOfMemory { .. }) => Self::Plain,
                recorded => recorded?.map_or(Self::Plain, Self::Recorded),
            };
        }
        match self {
            Self::Recorded(recorded) => recorded.replay(inputs),
            Self::Known | Self::Plain => work(inputs),
            Self::New => {
                let output = work(inputs)?;
                *self = Self::Known;
                Ok(output)
            }
        }
    }
}

impl<B: Backend, const N: usize> Recorded<B, N> {
    fn new(
        inputs: [&Tensor<B>; N],
        work: impl Fn([&Tensor<B>; N]) -> Result<Tensor<B>>,
    ) -> Result<Option<Self>> {
        let own = inputs.iter().map(|input| input.copy()).collect::<Result<Vec<_>>>()?;
        let Some(backend) = own.first().map(|input| input.backend().clone()) else { return Ok(None) };
        let mut output = None;
        let recording = backend.record(&mut || {
            output = Some(work(std::array::from_fn(|i| &own[i]))?);
            Ok(())
        })?;
        Ok(recording.zip(output).map(|(recording, output)| Self { inputs: own, output, recording }))
    }

    /// The next replay writes to `output`, and callers may hold this result by then: it is a copy.
    fn replay(&mut self, inputs: [&Tensor<B>; N]) -> Result<Tensor<B>> {
        for (own, input) in self.inputs.iter_mut().zip(inputs) {
            own.overwrite(input)?;
        }
        self.output.backend().replay(&self.recording)?;
        self.output.copy()
    }
}
