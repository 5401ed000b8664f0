//! LayerNorm.

use super::init::Init;
use super::module::module;
use crate::autograd::{Context, Param, Var};
use crate::{Backend, Result};

/// Epsilon of every LayerNorm, added to the variance.
pub const LAYER_NORM_EPS: f64 = 1e-6;

/// LayerNorm over the last axis, with weight and bias.
#[derive(Clone, Debug)]
pub struct LayerNorm<B: Backend> {
    /// `[D]`.
    pub weight: Param<B>,
    /// `[D]`.
    pub bias: Param<B>,
}

module!(LayerNorm { "weight" => weight, "bias" => bias });

impl<B: Backend> LayerNorm<B> {
    /// Weight 1, bias 0.
    pub fn new(init: &mut Init<B>, width: usize) -> Result<Self> {
        Ok(Self { weight: init.constant(&[width], 1.0)?, bias: init.constant(&[width], 0.0)? })
    }

    /// [.., D] → [.., D].
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>) -> Result<Var<B>> {
        self.forward_modulated(ctx, x, None)
    }

    /// LN(x)·(1 + scale) + shift: x [G, R, D], (scale, shift) each [G or 1, 1, D].
    pub fn forward_modulated(
        &self,
        ctx: &Context<B>,
        x: &Var<B>,
        modulation: Option<(&Var<B>, &Var<B>)>,
    ) -> Result<Var<B>> {
        let affine = (&ctx.param(&self.weight)?, &ctx.param(&self.bias)?);
        x.norm_modulate(Some(affine), modulation, LAYER_NORM_EPS)
    }
}
