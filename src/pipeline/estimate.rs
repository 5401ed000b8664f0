//! How much memory a pipeline takes, before it takes it.

use super::LoadOptions;
use super::load::check_match;
use crate::model::{Mode, ModelConfig, ModelSource};
use crate::vae::{VaeConfig, VaeSource};
use crate::weights::{Entry, WeightFile, WeightView};
use crate::{DType, Result};

/// Bytes of memory: of the host on the CPU, of the device elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights of model and VAE: kept while the pipeline lives.
    pub weights: u64,
    /// On top of the weights while they are loaded: the largest tensor as the file has it, and as the device takes it.
    pub loading: u64,
    /// On top of the weights while the images of one batch are generated.
    pub generation: u64,
}

pub(super) fn estimate(
    model: &WeightFile,
    vae: Option<&WeightFile>,
    options: &LoadOptions,
    images: usize,
) -> Result<MemoryEstimate> {
    let source = ModelSource::find(model, &options.hints)?;
    let vae = vae.map(VaeSource::find).transpose()?;
    if let Some(vae) = &vae {
        check_match(source.config(), vae.config())?;
    }
    let wide = DType::F32.size() as u64;
    let mut weights = Weights::of(source.tensors(), options.dtype.size() as u64);
    let mut generation =
        model_bytes(source.config(), images as u64).saturating_mul(options.dtype.size() as u64);
    if let Some(vae) = &vae {
        weights.add(Weights::of(vae.tensors(), wide));
        generation =
            generation.max(vae_bytes(vae.config(), source.config().latent_size as u64, images as u64));
    }
    Ok(MemoryEstimate { weights: weights.kept, loading: weights.passing, generation })
}

/// Bytes of weights: kept, and needed while one tensor is read.
struct Weights {
    kept: u64,
    passing: u64,
}

impl Weights {
    fn of(tensors: &WeightView<'_>, size: u64) -> Self {
        let values = |entry: &Entry| entry.shape().iter().map(|&d| d as u64).product::<u64>();
        let decoded = |entry: &Entry| values(entry) * entry.decoded().map_or(0, |dtype| dtype.size() as u64);
        Self {
            kept: tensors.entries().map(|(_, entry)| values(entry) * size).sum(),
            // As it was read, and once more in the order in memory that the device wants.
            passing: tensors.entries().map(|(_, e)| decoded(e) + values(e) * size).max().unwrap_or(0),
        }
    }

    fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.passing = self.passing.max(other.passing);
    }
}

/// Values that are in memory at once while a batch is generated under guidance, at most.
fn model_bytes(config: &ModelConfig, images: u64) -> u64 {
    let (d, ratio) = (config.width as u64, config.mlp_ratio as u64);
    let (features, latent) = (config.feature_tokens as u64, config.decoder_tokens() as u64);
    let sequence = config.buffer_size as u64 + features;
    // In a block: its input, a norm, the hidden layer or queries, keys and values, and the output.
    let token = d * (3 + ratio.max(4));
    let encoder = images * sequence * token;
    let decoder = 2 * images * latent * (token + 6 * config.latent_channels as u64);
    // Keys and values of the cross-attentions: of the batch, and with those for no class behind them.
    let condition = 4 * images * features * 2 * d * config.decoder_blocks as u64;
    // Of multi-reference autoregression: keys and values of the sequence so far, with class and without.
    let prefix = match config.mode {
        Mode::OneStep => 0,
        Mode::MultiReference { .. } => 2 * images * sequence * 2 * d * config.encoder_blocks as u64,
    };
    prefix + encoder.max(condition + decoder)
}

/// Bytes that are in memory at once while the latents of a batch are decoded, one after another.
fn vae_bytes(config: &VaeConfig, latent_size: u64, images: u64) -> u64 {
    let finest = latent_size * config.downsampling() as u64;
    let channels =
        |level: usize| (config.channels * config.multipliers[level.min(config.multipliers.len() - 1)]) as u64;
    // A level starts on the channels of the coarser one. Its input, a norm, a convolution and the result are held.
    let level = |level: usize| 4 * (finest >> level).pow(2) * channels(level).max(channels(level + 1));
    let largest = (0..config.multipliers.len()).map(level).max().unwrap_or(0);
    // The batch's images: as they are made, joined, and brought to the host.
    let results = 3 * images * finest.pow(2) * config.image_channels as u64;
    (largest + results) * DType::F32.size() as u64
}
