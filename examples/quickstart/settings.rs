//! The command line, and the recipe that it varies.

use std::path::PathBuf;

use clap::Parser;
use serde::{Serialize, Serializer};
use transdiff::Device;
use transdiff::models::transdiff::{FlowObjective, Mode, TransDiffConfig};
use transdiff::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig};

use crate::digits::{CLASSES, LATENT_SIDE};

/// Groups of the multi-reference model: each of 2×2 tokens.
const GROUPS: usize = 4;
/// Channels of a latent.
const CHANNELS: usize = 4;

/// Trains TransDiff on 1,200 handwritten digits and generates new ones.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(after_help = "Examples:
  cargo run --release --example quickstart
  cargo run --release --example quickstart -- --mrar --out mrar
  cargo run --release --example quickstart -- --steps 200    # a quick look

Ctrl-C leaves a checkpoint; the same command goes on from it.")]
pub struct Settings {
    /// Folder for pictures, samples, report and checkpoint
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    pub out: PathBuf,
    /// Training steps of the 1-step model
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Fine-tune with four references, and generate in four steps
    #[arg(long)]
    pub mrar: bool,
    /// Training steps of the fine-tuning
    #[arg(long, value_name = "N", default_value_t = 1200, value_parser = clap::value_parser!(u64).range(1..))]
    pub mrar_steps: u64,
    /// Digits to generate, the same number of each class
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count_of_digits)]
    pub samples: usize,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub sampling_steps: u32,
    /// Seed of initial weights, training and sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "name_of")]
    pub device: Device,
    /// Threads of the CPU (default: one a core)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Start over, even if the folder holds a checkpoint
    #[arg(long)]
    pub fresh: bool,
}

fn name_of<S: Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

fn count_of_digits(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 && n % CLASSES == 0 => Ok(n),
        _ => Err(format!("expected a positive multiple of {CLASSES}")),
    }
}

/// The model: every size but these follows from the data.
pub fn model() -> TransDiffConfig {
    TransDiffConfig {
        width: 96,
        heads: 4,
        encoder_blocks: 4,
        decoder_blocks: 3,
        mlp_ratio: 4,
        classes: CLASSES,
        buffer_size: 4,
        feature_tokens: LATENT_SIDE * LATENT_SIDE,
        latent_channels: CHANNELS,
        latent_size: LATENT_SIDE,
        mode: Mode::OneStep,
    }
}

/// The same model with multi-reference autoregression.
pub fn mrar_model() -> TransDiffConfig {
    model().with_mode(Mode::MultiReference { groups: GROUPS })
}

impl Settings {
    /// How the 1-step model is trained.
    pub fn training(&self) -> TrainConfig {
        TrainConfig { objective: objective(2), ..recipe(64, self.steps, 2e-3, self.seed) }
    }

    /// How the fine-tuning goes: each sample is four images, so half the samples make twice the images.
    pub fn mrar_training(&self) -> TrainConfig {
        TrainConfig { objective: objective(1), ..recipe(32, self.mrar_steps, 1e-3, self.seed) }
    }
}

/// The paper's loss with `batch_mul` noised copies of each latent.
fn objective(batch_mul: usize) -> FlowObjective {
    FlowObjective { batch_mul, ..FlowObjective::default() }
}

/// The paper's settings, but for a model and a data set small enough to train in minutes: a high rate that falls
/// at the end, an average that forgets faster, no dropout.
fn recipe(batch: usize, steps: u64, peak: f64, seed: u64) -> TrainConfig {
    TrainConfig {
        seed,
        dropout: 0.0,
        lr: LrSchedule { peak, warmup: 50.min(steps), total: steps, decay: LrDecay::Linear { from: 0.6 } },
        ema: EmaConfig { decay: 0.995, warmup: true },
        ..TrainConfig::new(batch, steps)
    }
}
