//! Encoder, on images [B, H, W, C].

use super::VaeConfig;
use super::layers::{AttnBlock, Conv2d, GroupNorm, ResBlock, Sides};
use super::mid_block::MidBlock;
use crate::nn::{Init, module};
use crate::{Backend, CancellationToken, Result, Tensor};

/// A level of the encoder.
#[derive(Clone, Debug)]
struct DownLevel<B: Backend> {
    block: Vec<ResBlock<B>>,
    /// One per block, or none.
    attn: Vec<AttnBlock<B>>,
    downsample: Option<Conv2d<B>>,
}

module!(DownLevel { "block" => block, "attn" => attn, "downsample.conv" => downsample });

impl<B: Backend> DownLevel<B> {
    fn new(init: &mut Init<B>, config: &VaeConfig, level: usize) -> Result<Self> {
        let width = config.width(level);
        let mut inputs = if level == 0 { config.channels } else { config.width(level - 1) };
        let (mut block, mut attn) = (Vec::new(), Vec::new());
        for _ in 0..config.res_blocks {
            block.push(ResBlock::new(init, inputs, width)?);
            if config.attention.contains(&level) {
                attn.push(AttnBlock::new(init, width)?);
            }
            inputs = width;
        }
        let coarser = level + 1 < config.multipliers.len();
        let downsample = coarser.then(|| Conv2d::new(init, width, width, 3)).transpose()?;
        Ok(Self { block, attn, downsample })
    }

    fn forward(&self, x: Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let mut x = x;
        for (i, block) in self.block.iter().enumerate() {
            token.check()?;
            x = block.forward(&x)?;
            if let Some(attn) = self.attn.get(i) {
                token.check()?;
                x = attn.forward(&x)?;
            }
        }
        let Some(conv) = &self.downsample else { return Ok(x) };
        token.check()?;
        conv.resample(&x, Sides::Halved)
    }
}

/// Encoder: images to moments.
#[derive(Clone, Debug)]
pub(super) struct Encoder<B: Backend> {
    conv_in: Conv2d<B>,
    /// From the finest level on.
    down: Vec<DownLevel<B>>,
    mid: MidBlock<B>,
    norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

module!(Encoder {
    "conv_in" => conv_in,
    "down" => down,
    "mid" => mid,
    "norm_out" => norm_out,
    "conv_out" => conv_out,
});

impl<B: Backend> Encoder<B> {
    pub(super) fn new(init: &mut Init<B>, config: &VaeConfig) -> Result<Self> {
        let (levels, deepest) = (config.multipliers.len(), config.deepest());
        Ok(Self {
            conv_in: Conv2d::new(init, config.image_channels, config.channels, 3)?,
            down: (0..levels).map(|level| DownLevel::new(init, config, level)).collect::<Result<_>>()?,
            mid: MidBlock::new(init, deepest)?,
            norm_out: GroupNorm::new(init, deepest)?,
            conv_out: Conv2d::new(init, deepest, 2 * config.latent_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, image: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let mut x = self.conv_in.forward(image, None)?;
        for level in &self.down {
            x = level.forward(x, token)?;
        }
        let x = self.mid.forward(&x, token)?;
        self.conv_out.forward(&x, Some(&self.norm_out.scale_shift(&x, true)?))
    }
}
