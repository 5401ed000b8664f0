//! Block between the levels and the latent, in encoder and decoder.

use super::layers::{AttnBlock, ResBlock};
use crate::nn::{Init, module};
use crate::{Backend, CancellationToken, Result, Tensor};

/// Mid block: two residual blocks around attention, at the resolution of the latent.
#[derive(Clone, Debug)]
pub(super) struct MidBlock<B: Backend> {
    block_1: ResBlock<B>,
    attn_1: AttnBlock<B>,
    block_2: ResBlock<B>,
}

module!(MidBlock { "block_1" => block_1, "attn_1" => attn_1, "block_2" => block_2 });

impl<B: Backend> MidBlock<B> {
    pub(super) fn new(init: &mut Init<B>, channels: usize) -> Result<Self> {
        let block_1 = ResBlock::new(init, channels, channels)?;
        let attn_1 = AttnBlock::new(init, channels)?;
        Ok(Self { block_1, attn_1, block_2: ResBlock::new(init, channels, channels)? })
    }

    pub(super) fn forward(&self, x: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        token.check()?;
        let x = self.block_1.forward(x)?;
        token.check()?;
        let x = self.attn_1.forward(&x)?;
        token.check()?;
        self.block_2.forward(&x)
    }
}
