//! Segments that are computed again in the backward pass instead of being stored.

use super::Context;
use super::{Gradients, Tape, Var, Vjp};
use crate::{Backend, Result, Tensor};

/// Runs `segment` on `inputs`. If `ctx` records and asks for checkpoints, only the inputs are kept, and the
/// backward pass runs the segment again, with the same dropout masks, to differentiate it.
pub fn checkpoint<B, F>(ctx: &Context<B>, inputs: &[&Var<B>], segment: F) -> Result<Var<B>>
where
    B: Backend,
    F: Fn(&Context<B>, &[Var<B>]) -> Result<Var<B>> + Send + 'static,
{
    let owned: Vec<Var<B>> = inputs.iter().map(|&v| v.clone()).collect();
    let Some(tape) = ctx.tape().filter(|_| ctx.checkpoints()) else { return segment(ctx, &owned) };
    let replay = ctx.replayed_on(None);
    let untaped = ctx.replayed_on(None);
    let detached: Vec<Var<B>> = owned.iter().map(Var::detach).collect();
    let output = segment(&untaped, &detached)?;
    ctx.continue_after(&untaped);
    let inputs_saved = detached.into_iter().map(Var::into_value).collect();
    let vjp = Segment { inputs: inputs_saved, ctx: replay, segment };
    tape.record(output.into_value(), inputs, Box::new(vjp))
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
        wanted: &[bool],
        grads: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        let tape = Tape::new();
        let (vars, keys): (Vec<_>, Vec<_>) = self
            .inputs
            .into_iter()
            .zip(wanted)
            .map(|(value, &wanted)| match wanted {
                true => {
                    let (var, key) = tape.input(value);
                    (var, Some(key))
                }
                false => (Var::constant(value), None),
            })
            .unzip();
        let output = (self.segment)(&self.ctx.replayed_on(Some(tape.clone())), &vars)?;
        tape.backward_from(&output, dy, grads)?;
        Ok(keys.into_iter().map(|key| grads.remove(key?)).collect())
    }
}
