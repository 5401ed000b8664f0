//! Decoder, on latents [B, h, w, C].

use super::VaeConfig;
use super::layers::{Conv2d, GroupNorm, ResBlock, Sides};
use super::mid_block::MidBlock;
use crate::nn::{Init, module};
use crate::{Backend, CancellationToken, Result, Tensor};

/// A level of the decoder.
#[derive(Clone, Debug)]
struct UpLevel<B: Backend> {
    block: Vec<ResBlock<B>>,
    upsample: Option<Conv2d<B>>,
}

module!(UpLevel { "block" => block, "upsample.conv" => upsample });

impl<B: Backend> UpLevel<B> {
    fn new(init: &mut Init<B>, config: &VaeConfig, level: usize) -> Result<Self> {
        let width = config.width(level);
        let coarsest = level + 1 == config.multipliers.len();
        let inputs = if coarsest { width } else { config.width(level + 1) };
        let mut block = vec![ResBlock::new(init, inputs, width)?];
        for _ in 0..config.res_blocks {
            block.push(ResBlock::new(init, width, width)?);
        }
        let upsample = (level > 0).then(|| Conv2d::new(init, width, width, 3)).transpose()?;
        Ok(Self { block, upsample })
    }

    fn forward(&self, x: Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let mut x = x;
        for block in &self.block {
            token.check()?;
            x = block.forward(&x)?;
        }
        let Some(conv) = &self.upsample else { return Ok(x) };
        token.check()?;
        conv.resample(&x, Sides::Doubled)
    }
}

/// Decoder: latents to images.
#[derive(Clone, Debug)]
pub(super) struct Decoder<B: Backend> {
    conv_in: Conv2d<B>,
    mid: MidBlock<B>,
    /// From the finest level on; the forward pass runs them in reverse.
    up: Vec<UpLevel<B>>,
    norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

module!(Decoder {
    "conv_in" => conv_in,
    "mid" => mid,
    "up" => up,
    "norm_out" => norm_out,
    "conv_out" => conv_out,
});

impl<B: Backend> Decoder<B> {
    pub(super) fn new(init: &mut Init<B>, config: &VaeConfig) -> Result<Self> {
        let (levels, deepest) = (config.multipliers.len(), config.deepest());
        Ok(Self {
            conv_in: Conv2d::new(init, config.latent_channels, deepest, 3)?,
            mid: MidBlock::new(init, deepest)?,
            up: (0..levels).map(|level| UpLevel::new(init, config, level)).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(init, config.width(0))?,
            conv_out: Conv2d::new(init, config.width(0), config.image_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, latent: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let mut x = self.mid.forward(&self.conv_in.forward(latent, None)?, token)?;
        for level in self.up.iter().rev() {
            x = level.forward(x, token)?;
        }
        token.check()?;
        self.conv_out.forward(&x, Some(&self.norm_out.scale_shift(&x, true)?))
    }
}
