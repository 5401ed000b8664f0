//! The two-layer MLP of a block.

use super::init::Init;
use super::linear::Linear;
use super::module::module;
use crate::autograd::{Context, Var};
use crate::backend::Activation;
use crate::{Backend, Result};

/// fc2(dropout(gelu(fc1 x))). The dropout after fc2 is part of the residual connection.
#[derive(Clone, Debug)]
pub struct Mlp<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
}

module!(Mlp { "fc1" => fc1, "fc2" => fc2 });

impl<B: Backend> Mlp<B> {
    /// Layers D → hidden → D.
    pub fn new(init: &mut Init<B>, width: usize, hidden: usize) -> Result<Self> {
        Ok(Self { fc1: Linear::new(init, width, hidden)?, fc2: Linear::new(init, hidden, width)? })
    }

    /// [.., D] → [.., D].
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>) -> Result<Var<B>> {
        let activation = ctx.next_dropout().map_or(Activation::Gelu, Activation::GeluDropout);
        let hidden = self.fc1.forward_act(ctx, x, activation)?;
        self.fc2.forward(ctx, &hidden)
    }
}
