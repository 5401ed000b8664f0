//! Settings of a forward pass.

use std::cell::Cell;

use super::param::Param;
use super::tape::Tape;
use super::var::Var;
use crate::rng::{Dropout, Purpose, StreamKey};
use crate::{Backend, CancellationToken, DType, Result, Tensor};

/// A forward pass: its tape, its dropout, and the type that it computes in.
#[derive(Debug)]
pub struct Context<B: Backend> {
    tape: Option<Tape<B>>,
    dropout: Option<Dropout>,
    /// Number of dropouts so far: each has its own stream.
    dropouts: Cell<u32>,
    compute: Option<DType>,
    /// If true, the pass computes in the accumulator of that type.
    wide: bool,
    gradient_checkpointing: bool,
    cancellation: CancellationToken,
}

impl<B: Backend> Context<B> {
    /// A pass without a tape and without dropout.
    pub fn inference() -> Self {
        Self {
            tape: None,
            dropout: None,
            dropouts: Cell::new(0),
            compute: None,
            wide: false,
            gradient_checkpointing: false,
            cancellation: CancellationToken::new(),
        }
    }

    /// A pass that is recorded on `tape`, without dropout.
    pub fn recording(tape: Tape<B>) -> Self {
        Self { tape: Some(tape), ..Self::inference() }
    }

    /// The same pass with dropout at `rate`, for a batch of `samples` samples with consecutive numbers from `first_sample`
    /// on. A sample's masks depend on the seed, its number and the number of the dropout in the pass, not on the other
    /// samples of the batch.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the rate is not in [0, 1) or there is no sample.
    pub fn with_dropout(self, rate: f32, seed: u64, first_sample: u32, samples: usize) -> Result<Self> {
        let dropout = Dropout { rate, key: StreamKey::new(seed, Purpose::Dropout, 0, first_sample), samples };
        dropout.validate()?;
        Ok(Self { dropout: (rate > 0.0).then_some(dropout), ..self })
    }

    /// The same pass, computing in `dtype` for parameters of any type.
    #[must_use]
    pub fn with_compute_dtype(self, dtype: DType) -> Self {
        Self { compute: Some(dtype), ..self }
    }

    /// The same pass with gradient checkpointing: only the inputs of each block are saved, and the backward pass recomputes
    /// the block.
    #[must_use]
    pub fn with_gradient_checkpointing(self) -> Self {
        Self { gradient_checkpointing: true, ..self }
    }

    /// The same pass, which fails once `token` is cancelled.
    #[must_use]
    pub fn with_cancellation(self, token: &CancellationToken) -> Self {
        Self { cancellation: token.clone(), ..self }
    }

    /// Checks for cancellation; models call it before each of their blocks.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn check_cancelled(&self) -> Result<()> {
        self.cancellation.check()
    }

    /// The parameter as a variable of this pass, in the type that it computes in, as is its gradient.
    pub fn param(&self, param: &Param<B>) -> Result<Var<B>> {
        let dtype = self.type_for(param.value());
        Ok(match &self.tape {
            Some(tape) if param.is_trainable() => tape.leaf(param.key(), param.in_type(dtype, true)?),
            // Passes of inference do not make copies that stay.
            tape => Var::constant(param.in_type(dtype, tape.is_some())?),
        })
    }

    /// Data as a constant of this pass.
    pub fn input(&self, value: &Tensor<B>) -> Result<Var<B>> {
        Ok(Var::constant(value.cast(self.type_for(value))?))
    }

    /// The type that this pass computes in with `value`.
    fn type_for(&self, value: &Tensor<B>) -> DType {
        let dtype = self.compute.unwrap_or(value.dtype());
        if self.wide { dtype.accumulator() } else { dtype }
    }

    /// The same pass computing in the [accumulator](DType::accumulator)'s type, without dropout: for a layer whose sums
    /// enter or leave the residual stream, which are few and need its precision.
    #[must_use]
    pub fn wide(&self) -> Self {
        Self { wide: true, dropout: None, ..self.recomputation(self.tape.clone()) }
    }

    /// The same pass without a tape and without dropout: what it computes is a constant of this one.
    #[must_use]
    pub fn without_gradients(&self) -> Self {
        Self { dropout: None, ..self.recomputation(None) }
    }

    /// The next dropout of the pass.
    pub fn next_dropout(&self) -> Option<Dropout> {
        let dropout = self.dropout?;
        let index = self.dropouts.replace(self.dropouts.get() + 1);
        Some(Dropout { key: StreamKey { index, ..dropout.key }, ..dropout })
    }

    pub(super) fn tape(&self) -> Option<&Tape<B>> {
        self.tape.as_ref()
    }

    pub(super) fn gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing
    }

    /// The rest of this pass on another tape, without gradient checkpointing.
    pub(super) fn recomputation(&self, tape: Option<Tape<B>>) -> Self {
        Self {
            tape,
            dropout: self.dropout,
            dropouts: self.dropouts.clone(),
            compute: self.compute,
            wide: self.wide,
            gradient_checkpointing: false,
            cancellation: self.cancellation.clone(),
        }
    }

    /// Continues after `segment`, a [`recomputation`](Self::recomputation) of this pass, whose dropouts count as this
    /// pass's.
    pub(super) fn continue_after(&self, segment: &Self) {
        self.dropouts.set(segment.dropouts.get());
    }
}
