//! Gradient (activation) checkpointing: segments are recomputed in the backward pass instead of stored.

use super::context::Context;
use super::gradients::Gradients;
use super::tape::{Inputs, Tape, Vjp};
use super::var::Var;
use crate::{Backend, Result, Tensor};

/// Runs `segment` on `inputs`. With [gradient checkpointing](Context::with_gradient_checkpointing) on a recorded pass,
/// only the inputs are saved, and the backward pass runs the segment again, with the same dropout masks, to
/// differentiate it.
pub fn gradient_checkpoint<B, F>(ctx: &Context<B>, inputs: &[&Var<B>], segment: F) -> Result<Var<B>>
where
    B: Backend,
    F: Fn(&Context<B>, &[Var<B>]) -> Result<Var<B>> + Send + 'static,
{
    let owned: Vec<Var<B>> = inputs.iter().map(|&v| v.clone()).collect();
    let Some(tape) = ctx.tape().filter(|_| ctx.gradient_checkpointing()) else { return segment(ctx, &owned) };
    let recomputation = ctx.recomputation(None);
    let untaped = ctx.recomputation(None);
    let detached: Vec<Var<B>> = owned.iter().map(Var::detach).collect();
    let output = segment(&untaped, &detached)?;
    ctx.continue_after(&untaped);
    let saved = detached.into_iter().map(Var::into_value).collect();
    tape.record(output.into_value(), inputs, Box::new(Segment { inputs: saved, ctx: recomputation, segment }))
}

struct Segment<B: Backend, F> {
    inputs: Vec<Tensor<B>>,
    ctx: Context<B>,
    segment: F,
}

impl<B, F> Vjp<B> for Segment<B, F>
where
    B: Backend,
    F: Fn(&Context<B>, &[Var<B>]) -> Result<Var<B>> + Send + 'static,
{
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        grads: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        let tape = Tape::new();
        let (vars, keys): (Vec<_>, Vec<_>) = self
            .inputs
            .into_iter()
            .enumerate()
            .map(|(i, value)| match inputs.is_wanted(i) {
                true => {
                    let (var, key) = tape.input(value);
                    (var, Some(key))
                }
                false => (Var::constant(value), None),
            })
            .unzip();
        let output = (self.segment)(&self.ctx.recomputation(Some(tape.clone())), &vars)?;
        tape.backward_from(&output, dy, grads)?;
        Ok(keys.into_iter().map(|key| grads.remove(key?)).collect())
    }
}
