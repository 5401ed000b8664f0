//! The forward and backward passes of a step.

use super::{Accumulation, Trainer};
use crate::autograd::{Context, Gradients, Tape, Var};
use crate::distributed::{TermSum, agree};
use crate::models::Trainable;
use crate::{Backend, Error, Result};

/// Gradients of a step's passes, as far as they have been added.
type GradientSum<B> = TermSum<Gradients<B>>;

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// Mean loss and gradients of the passes of all ranks; the batches of this one, from sample `first` on, `next` makes.
    pub(super) fn accumulate(
        &self,
        passes: usize,
        first: u64,
        next: impl FnMut(usize) -> Result<M::Batch>,
    ) -> Result<(f64, Gradients<B>)> {
        let backend = self.model.backend();
        let sum = TermSum::new(backend.summation(), passes);
        let (mut losses, forward) = (Vec::with_capacity(passes), self.forward(passes, first, next, sum));
        let (last, sum) = match &self.ranks {
            None => {
                let (own, last, sum) = forward?;
                losses.extend(own);
                (last, sum)
            }
            Some(ranks) => {
                // Before the first sum that needs all ranks, they agree that each has its part.
                let (outcome, forward) = match forward {
                    Ok((own, last, sum)) => {
                        (Ok(Some(own.iter().map(|loss| loss.to_bits()).collect())), Some((last, sum)))
                    }
                    Err(Error::NonFinite { .. }) => (Ok(None), None),
                    Err(error) => (Err(error), None),
                };
                let outcomes: Vec<Option<Vec<u64>>> =
                    ranks.waiting(|| agree(ranks.communicator(), outcome))?;
                for own in outcomes {
                    let own = own.ok_or(Error::NonFinite { stage: "loss" })?;
                    losses.extend(own.into_iter().map(f64::from_bits));
                }
                forward.expect("it has not failed")
            }
        };
        let (tape, loss) = last;
        let grads = match &self.ranks {
            None => {
                let mut sum = sum;
                sum.push(tape.backward(&loss)?, merged)?;
                sum.finish().expect("there is a pass")
            }
            Some(ranks) => ranks.reduce(&tape, &loss, sum.into_partial())?,
        };
        Ok((losses.iter().sum(), grads))
    }

    /// Forward passes, and the backward passes of all but the last. Returns each pass's part of the mean loss over all ranks, the
    /// tape and the loss of the last pass, and the sum of the gradients of the others.
    fn forward(
        &self,
        passes: usize,
        mut first: u64,
        mut next: impl FnMut(usize) -> Result<M::Batch>,
        mut sum: GradientSum<B>,
    ) -> Result<(Vec<f64>, (Tape<B>, Var<B>), GradientSum<B>)> {
        let share = 1.0 / (passes * self.ranks().1) as f64;
        let factor = match self.config.accumulate_as {
            Accumulation::Mean => share,
            Accumulation::Sum => 1.0,
        };
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
        Ok((losses, last.expect("there is a pass"), sum))
    }
}

/// a + b.
fn merged<B: Backend>(mut a: Gradients<B>, b: Gradients<B>) -> Result<Gradients<B>> {
    a.merge(b)?;
    Ok(a)
}
