//! The linear layer.

use super::init::Init;
use super::module::module;
use crate::autograd::{Context, Param, Var};
use crate::backend::Activation;
use crate::{Backend, Result};

/// y = act(x Wᵀ + b), W [outputs, inputs].
#[derive(Clone, Debug)]
pub struct Linear<B: Backend> {
    /// [outputs, inputs].
    pub weight: Param<B>,
    /// `[outputs]`.
    pub bias: Param<B>,
}

module!(Linear { "weight" => weight, "bias" => bias });

impl<B: Backend> Linear<B> {
    /// Xavier-uniform weight, zero bias.
    pub fn new(init: &mut Init<B>, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: init.xavier(outputs, inputs)?, bias: init.constant(&[outputs], 0.0)? })
    }

    /// Zero weight and bias.
    pub fn zero(init: &mut Init<B>, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: init.zero_weight(outputs, inputs)?, bias: init.constant(&[outputs], 0.0)? })
    }

    /// [.., inputs] → [.., outputs].
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>) -> Result<Var<B>> {
        self.forward_act(ctx, x, Activation::None)
    }

    /// [`forward`](Self::forward) with an activation.
    pub fn forward_act(&self, ctx: &Context<B>, x: &Var<B>, act: Activation) -> Result<Var<B>> {
        x.linear(&ctx.param(&self.weight)?, Some(&ctx.param(&self.bias)?), act)
    }
}
