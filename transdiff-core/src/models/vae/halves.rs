//! Encoder and decoder, on images [B, H, W, C].

use super::layers::{AttnBlock, Conv2d, GroupNorm, ResBlock};
use super::{Proceed, VaeConfig, go_on};
use crate::backend::Resample;
use crate::nn::{Init, module};
use crate::{Backend, Result, Tensor};

/// What lies between the levels and the latent.
#[derive(Clone, Debug)]
struct Middle<B: Backend> {
    block_1: ResBlock<B>,
    attn_1: AttnBlock<B>,
    block_2: ResBlock<B>,
}

module!(Middle { "block_1" => block_1, "attn_1" => attn_1, "block_2" => block_2 });

impl<B: Backend> Middle<B> {
    fn new(init: &mut Init<B>, channels: usize) -> Result<Self> {
        let block_1 = ResBlock::new(init, channels, channels)?;
        let attn_1 = AttnBlock::new(init, channels)?;
        Ok(Self { block_1, attn_1, block_2: ResBlock::new(init, channels, channels)? })
    }

    fn forward(&self, x: &Tensor<B>, proceed: Proceed<'_>) -> Result<Tensor<B>> {
        go_on(proceed)?;
        let x = self.block_1.forward(x)?;
        go_on(proceed)?;
        let x = self.attn_1.forward(&x)?;
        go_on(proceed)?;
        self.block_2.forward(&x)
    }
}

/// A level of the encoder.
#[derive(Clone, Debug)]
struct DownLevel<B: Backend> {
    block: Vec<ResBlock<B>>,
    /// One a block, or none.
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

    fn forward(&self, x: Tensor<B>, proceed: Proceed<'_>) -> Result<Tensor<B>> {
        let mut x = x;
        for (i, block) in self.block.iter().enumerate() {
            go_on(proceed)?;
            x = block.forward(&x)?;
            if let Some(attn) = self.attn.get(i) {
                go_on(proceed)?;
                x = attn.forward(&x)?;
            }
        }
        let Some(conv) = &self.downsample else { return Ok(x) };
        go_on(proceed)?;
        conv.resample(&x, Resample::Halve)
    }
}

/// Images to moments.
#[derive(Clone, Debug)]
pub(super) struct Encoder<B: Backend> {
    conv_in: Conv2d<B>,
    /// From the finest level on.
    down: Vec<DownLevel<B>>,
    mid: Middle<B>,
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
            mid: Middle::new(init, deepest)?,
            norm_out: GroupNorm::new(init, deepest)?,
            conv_out: Conv2d::new(init, deepest, 2 * config.latent_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, image: &Tensor<B>, proceed: Proceed<'_>) -> Result<Tensor<B>> {
        let mut x = self.conv_in.forward(image, None)?;
        for level in &self.down {
            x = level.forward(x, proceed)?;
        }
        let x = self.mid.forward(&x, proceed)?;
        self.conv_out.forward(&x, Some(&self.norm_out.map(&x, true)?))
    }
}

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

    fn forward(&self, x: Tensor<B>, proceed: Proceed<'_>) -> Result<Tensor<B>> {
        let mut x = x;
        for block in &self.block {
            go_on(proceed)?;
            x = block.forward(&x)?;
        }
        let Some(conv) = &self.upsample else { return Ok(x) };
        go_on(proceed)?;
        conv.resample(&x, Resample::Double)
    }
}

/// Latents to images.
#[derive(Clone, Debug)]
pub(super) struct Decoder<B: Backend> {
    conv_in: Conv2d<B>,
    mid: Middle<B>,
    /// From the finest level on; the pass goes the other way.
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
            mid: Middle::new(init, deepest)?,
            up: (0..levels).map(|level| UpLevel::new(init, config, level)).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(init, config.width(0))?,
            conv_out: Conv2d::new(init, config.width(0), config.image_channels, 3)?,
        })
    }

    pub(super) fn forward(&self, latent: &Tensor<B>, proceed: Proceed<'_>) -> Result<Tensor<B>> {
        let mut x = self.mid.forward(&self.conv_in.forward(latent, None)?, proceed)?;
        for level in self.up.iter().rev() {
            x = level.forward(x, proceed)?;
        }
        go_on(proceed)?;
        self.conv_out.forward(&x, Some(&self.norm_out.map(&x, true)?))
    }
}
