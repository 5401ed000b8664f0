//! The forward and backward passes of a step.

use super::{Accumulation, Trainer};
use crate::autograd::{Context, Gradients, Tape, Var};
use crate::distributed::{TermSum, agree};
use crate::models::Trainable;
use crate::{Backend, Error, Result};

/// A step before the backward pass of its last forward pass.
struct Forward<B: Backend> {
    /// Each pass's part of the mean loss over all ranks.
    losses: Vec<f64>,
    /// Tape and loss of the last pass.
    tape: Tape<B>,
    loss: Var<B>,
    /// Gradients of the other passes, as far as they have been added.
    sum: TermSum<Gradients<B>>,
}

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// Mean loss and gradients of the passes of all ranks; the batches of this one, from sample `first` on, `next` makes.
    pub(super) fn accumulate(
        &self,
        passes: usize,
        first: u64,
        next: impl FnMut(usize) -> Result<M::Batch>,
    ) -> Result<(f64, Gradients<B>)> {
        let forward = self.forward(passes, first, next);
        let Some(ranks) = &self.ranks else {
            let Forward { losses, tape, loss, mut sum } = forward?;
            sum.push(tape.backward(&loss)?, merged)?;
            return Ok((losses.iter().sum(), sum.finish().expect("there is a pass")));
        };
        // Before the first sum that needs all ranks, they agree that each has its part.
        let (outcome, forward) = match forward {
            Ok(forward) => {
                (Ok(Some(forward.losses.iter().map(|loss| loss.to_bits()).collect())), Some(forward))
            }
            Err(Error::NonFinite { .. }) => (Ok(None), None),
            Err(error) => (Err(error), None),
        };
        let outcomes: Vec<Option<Vec<u64>>> = ranks.waiting(|| agree(ranks.communicator(), outcome))?;
        let all: Option<Vec<Vec<u64>>> = outcomes.into_iter().collect();
        let all = all.ok_or(Error::NonFinite { stage: "loss" })?.into_iter().flatten();
        let Forward { tape, loss, sum, .. } = forward.expect("no rank has failed");
        Ok((all.map(f64::from_bits).sum(), ranks.reduce(&tape, &loss, sum.into_partial())?))
    }

    /// Forward passes, and the backward passes of all but the last.
    fn forward(
        &self,
        passes: usize,
        mut first: u64,
        mut next: impl FnMut(usize) -> Result<M::Batch>,
    ) -> Result<Forward<B>> {
        let share = 1.0 / (passes * self.ranks().1) as f64;
        let factor = match self.config.accumulate_as {
            Accumulation::Mean => share,
            Accumulation::Sum => 1.0,
        };
        let mut sum = TermSum::new(self.model.backend().summation(), passes);
        let mut losses = Vec::with_capacity(passes);
        let mut last = None;
        for pass in 0..passes {
            let batch = next(pass)?;
            let tape = Tape::new();
            let mut ctx = Context::recording(tape.clone())
                .with_compute_dtype(self.config.compute)
                .with_dropout(self.config.dropout, self.config.seed, first as u32, M::batch_len(&batch))?;
            if self.config.gradient_checkpointing {
                ctx = ctx.with_gradient_checkpointing();
            }
            let loss = self.model.loss(&ctx, &batch, &self.config.objective)?.affine(factor, 0.0)?;
            losses.push(loss.value().item()? * share / factor);
            if !losses[pass].is_finite() {
                return Err(Error::NonFinite { stage: "loss" });
            }
            match pass + 1 < passes {
                true => sum.push(tape.backward(&loss)?, merged)?,
                false => last = Some((tape, loss)),
            }
            first += M::batch_len(&batch) as u64;
        }
        let (tape, loss) = last.expect("there is a pass");
        Ok(Forward { losses, tape, loss, sum })
    }
}

/// a + b.
fn merged<B: Backend>(mut a: Gradients<B>, b: Gradients<B>) -> Result<Gradients<B>> {
    a.merge(b)?;
    Ok(a)
}
