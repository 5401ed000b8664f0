//! How much memory a pipeline takes, before it takes it.

use super::LoadOptions;
use super::load::check_match;
use crate::checkpoint::{Entry, WeightFile, WeightView};
use crate::models::transdiff::Preset;
use crate::models::transdiff::{Mode, StoredTransDiff, TransDiffConfig};
use crate::models::vae::{StoredVae, VaeConfig};
use crate::{Device, Result};

/// Bytes that a thread's kernels keep for their intermediate results.
const SCRATCH: u64 = 1 << 19;

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
    let source = StoredTransDiff::find(model, &options.hints)?;
    let vae = vae.map(StoredVae::find).transpose()?;
    if let Some(vae) = &vae {
        check_match(source.config(), vae.config())?;
    }
    let (images, size) = (images as u64, options.dtype.size() as u64);
    let mut weights = Weights::of(source.tensors(), size);
    let mut generation = model_values(source.config()).bytes(images, size);
    if let Some(vae) = &vae {
        weights.add(Weights::of(vae.tensors(), size));
        let side = source.config().latent_size as u64;
        let finest = side * vae.config().downsampling() as u64;
        let at_once = images_at_once(options.device, finest.saturating_pow(2)).min(images.max(1));
        generation = generation.max(vae_values(vae.config(), side, at_once).bytes(images, size));
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let scratch = SCRATCH.saturating_mul(options.threads.unwrap_or_else(cores) as u64);
    Ok(MemoryEstimate {
        weights: weights.kept,
        loading: weights.passing,
        generation: generation.saturating_add(scratch),
    })
}

/// How many images the VAE works on at a time. What `auto` will choose is not known: the more of what it may.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the CPU takes one, whatever its size"))]
fn images_at_once(device: Device, pixels: u64) -> u64 {
    match device {
        #[cfg(feature = "cuda")]
        Device::Auto | Device::Cuda(_) => {
            transdiff_cuda::images_at_once(usize::try_from(pixels).unwrap_or(usize::MAX)) as u64
        }
        _ => 1,
    }
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
            kept: tensors.entries().map(|(_, entry)| values(entry) * size + TENSOR_BYTES).sum(),
            // As it was read, and once more in the order in memory that the device wants.
            passing: tensors.entries().map(|(_, e)| decoded(e) + values(e) * size).max().unwrap_or(0),
        }
    }

    fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.passing = self.passing.max(other.passing);
    }
}

/// What is kept of a tensor beside its values: shape, strides, key and handles. Measured: 290 to 380 bytes.
const TENSOR_BYTES: u64 = 330;

/// Values that are in memory at once.
struct Values {
    /// Whatever the number of images.
    once: u64,
    /// For each image.
    each: u64,
}

impl Values {
    fn bytes(&self, images: u64, size: u64) -> u64 {
        // The caller's number of images is whatever it is.
        self.each.saturating_mul(images).saturating_add(self.once).saturating_mul(size)
    }
}

/// While a batch is generated under guidance in [`Preset::STEPS`] steps, at most.
fn model_values(config: &TransDiffConfig) -> Values {
    let (d, ratio) = (config.width as u64, config.mlp_ratio as u64);
    let (features, latent) = (config.feature_tokens as u64, config.decoder_tokens() as u64);
    let sequence = config.buffer_size as u64 + features;
    // In a block: its input, a norm, the output, and the hidden layer before and after its activation or queries,
    // keys, values and what they attend to.
    let token = d * (3 + (2 * ratio).max(4));
    let encoder = sequence * token;
    let decoder = 2 * latent * (token + 6 * config.latent_channels as u64);
    // Keys and values of the cross-attentions: of an image, and once more with those for no class behind them.
    let condition = features * 2 * d * config.decoder_blocks as u64;
    // Of multi-reference autoregression: keys and values of the sequence so far, with class and without.
    let prefix = match config.mode {
        Mode::OneStep => 0,
        Mode::MultiReference { .. } => 2 * sequence * 2 * d * config.encoder_blocks as u64,
    };
    // Embeddings of the times: two layers and the shifts, scales and gates of a block.
    let times = (Preset::STEPS as u64 + 1) * 8 * d;
    Values { once: condition + times, each: prefix + encoder.max(3 * condition + decoder) }
}

/// While the latents of a batch are decoded, `at_once` at a time.
fn vae_values(config: &VaeConfig, latent_size: u64, at_once: u64) -> Values {
    let finest = latent_size * config.downsampling() as u64;
    let channels =
        |level: usize| (config.channels * config.multipliers[level.min(config.multipliers.len() - 1)]) as u64;
    // A level starts on the channels of the coarser one. Its input, a norm, a convolution and the result are held.
    let level = |level: usize| {
        let area = (finest >> level).saturating_pow(2);
        area.saturating_mul(4 * channels(level).max(channels(level + 1)))
    };
    let largest = (0..config.multipliers.len()).map(level).max().unwrap_or(0);
    // Of an image: as it is made, joined to the others, and brought to the host.
    Values {
        once: largest.saturating_mul(at_once),
        each: finest.saturating_pow(2).saturating_mul(3 * config.image_channels as u64),
    }
}
