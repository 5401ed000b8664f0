//! Command line, model sizes and training recipes.

use std::path::PathBuf;

use clap::Parser;
use serde::{Serialize, Serializer};
use transdiff::Device;
use transdiff::models::transdiff::{FlowObjective, Mode, TransDiffConfig};
use transdiff::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig};

use crate::digits::{CLASSES, LATENT_SIDE};

/// Groups of the multi-reference model, each of 2×2 tokens.
const GROUPS: usize = 4;
/// Number of channels of a latent.
const CHANNELS: usize = 4;

/// Trains TransDiff on 1,200 handwritten digits and generates new ones.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(after_help = "Examples:
  cargo run --release --example quickstart
  cargo run --release --example quickstart -- --mrar --out mrar
  cargo run --release --example quickstart -- --steps 200    # a quick look

Ctrl-C writes a checkpoint; the same command resumes from it.")]
pub struct Settings {
    /// Output directory for figures, samples, report and checkpoints
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    pub out: PathBuf,
    /// Training steps of the 1-step model
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Fine-tune with reference images and generate in four AR steps
    #[arg(long)]
    pub mrar: bool,
    /// Training steps of the MRAR fine-tuning
    #[arg(long, value_name = "N", default_value_t = 1200, value_parser = clap::value_parser!(u64).range(1..))]
    pub mrar_steps: u64,
    /// Number of digits to generate, a multiple of 10: the same number per class
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_samples)]
    pub samples: usize,
    /// Sampling steps per AR step
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub sampling_steps: u32,
    /// Seed of initialisation, training and sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Device: cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "serialize_device")]
    pub device: Device,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Ignore existing checkpoints and train from scratch
    #[arg(long)]
    pub fresh: bool,
}

fn serialize_device<S: Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

fn parse_samples(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 && n % CLASSES == 0 => Ok(n),
        _ => Err(format!("expected a positive multiple of {CLASSES}")),
    }
}

/// Configuration of the 1-step model.
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

/// Configuration of the same model with multi-reference autoregression.
pub fn mrar_model() -> TransDiffConfig {
    model().with_mode(Mode::MultiReference { groups: GROUPS })
}

impl Settings {
    /// Recipe of the 1-step model.
    pub fn training(&self) -> TrainConfig {
        TrainConfig { objective: objective(2), ..recipe(64, self.steps, 2e-3, self.seed) }
    }

    /// Recipe of the MRAR fine-tuning. Each sample is four images: half the samples are twice the images.
    pub fn mrar_training(&self) -> TrainConfig {
        TrainConfig { objective: objective(1), ..recipe(32, self.mrar_steps, 1e-3, self.seed) }
    }
}

/// The paper's loss with `batch_mul` noised copies of each latent.
fn objective(batch_mul: usize) -> FlowObjective {
    FlowObjective { batch_mul, ..FlowObjective::default() }
}

/// The paper's recipe, adapted to a model and a data set that train in minutes: a high learning rate that decays
/// at the end, a shorter EMA, no dropout.
fn recipe(batch: usize, steps: u64, peak: f64, seed: u64) -> TrainConfig {
    TrainConfig {
        seed,
        dropout: 0.0,
        lr: LrSchedule { peak, warmup: 50.min(steps), total: steps, decay: LrDecay::Linear { from: 0.6 } },
        ema: EmaConfig { decay: 0.995, warmup: true },
        ..TrainConfig::new(batch, steps)
    }
}
