//! What a forward pass is for.

use std::cell::Cell;

use super::{Param, Tape, Var};
use crate::rng::{Dropout, Purpose, StreamKey};
use crate::{Backend, CancellationToken, DType, Error, Result, Tensor};

/// A forward pass: whether it is recorded, its dropout, and the type it computes in.
#[derive(Debug)]
pub struct Context<B: Backend> {
    tape: Option<Tape<B>>,
    dropout: Option<Dropout>,
    /// Number of dropouts so far: each place has its own stream.
    sites: Cell<u32>,
    compute: Option<DType>,
    checkpoints: bool,
    cancellation: CancellationToken,
}

impl<B: Backend> Context<B> {
    /// A pass without recording and without dropout.
    pub fn inference() -> Self {
        Self {
            tape: None,
            dropout: None,
            sites: Cell::new(0),
            compute: None,
            checkpoints: false,
            cancellation: CancellationToken::new(),
        }
    }

    /// A pass recorded on `tape`, without dropout.
    pub fn recording(tape: Tape<B>) -> Self {
        Self { tape: Some(tape), ..Self::inference() }
    }

    /// The same pass with dropout at `rate`; masks depend on (seed, step) and the place in the model.
    ///
    /// # Errors
    /// [`Error::Argument`] if the rate is not in [0, 1).
    pub fn with_dropout(self, rate: f32, seed: u64, step: u32) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::argument("dropout", "a rate in [0, 1)", rate));
        }
        let key = StreamKey::new(seed, Purpose::Dropout, 0, step);
        Ok(Self { dropout: (rate > 0.0).then_some(Dropout { rate, key }), ..self })
    }

    /// The same pass, computing in `dtype` whatever the type of the parameters.
    #[must_use]
    pub fn with_compute_dtype(self, dtype: DType) -> Self {
        Self { compute: Some(dtype), ..self }
    }

    /// The same pass, storing only the inputs of each block and running blocks again to differentiate them.
    #[must_use]
    pub fn with_gradient_checkpointing(self) -> Self {
        Self { checkpoints: true, ..self }
    }

    /// The same pass, which stops when `cancellation` is set.
    #[must_use]
    pub fn with_cancellation(self, cancellation: &CancellationToken) -> Self {
        Self { cancellation: cancellation.clone(), ..self }
    }

    /// Asked by the halves of the model before each of their blocks.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the pass is to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        self.cancellation.check()
    }

    /// The parameter as a variable of this pass.
    pub fn param(&self, param: &Param<B>) -> Result<Var<B>> {
        let var = match &self.tape {
            Some(tape) if param.is_trainable() => tape.leaf(param.key(), param.value().clone()),
            _ => Var::constant(param.value().clone()),
        };
        match self.compute {
            Some(dtype) => var.cast(dtype),
            None => Ok(var),
        }
    }

    /// Data as a variable of this pass.
    pub fn input(&self, value: &Tensor<B>) -> Result<Var<B>> {
        Ok(Var::constant(match self.compute {
            Some(dtype) => value.cast(dtype)?,
            None => value.clone(),
        }))
    }

    /// The dropout of the next place in the model.
    pub fn next_dropout(&self) -> Option<Dropout> {
        let dropout = self.dropout?;
        let index = self.sites.replace(self.sites.get() + 1);
        Some(Dropout { key: StreamKey { index, ..dropout.key }, ..dropout })
    }

    pub(crate) fn tape(&self) -> Option<&Tape<B>> {
        self.tape.as_ref()
    }

    pub(crate) fn checkpoints(&self) -> bool {
        self.checkpoints
    }

    /// This pass from here on, on another tape and without checkpoints.
    pub(crate) fn replayed_on(&self, tape: Option<Tape<B>>) -> Self {
        Self {
            tape,
            dropout: self.dropout,
            sites: self.sites.clone(),
            compute: self.compute,
            checkpoints: false,
            cancellation: self.cancellation.clone(),
        }
    }

    /// Counts the dropouts of `segment`, which began where this pass is, as this pass's.
    pub(crate) fn continue_after(&self, segment: &Self) {
        self.sites.set(segment.sites.get());
    }
}
