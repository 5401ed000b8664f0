//! Command line, model sizes and training recipes.

use std::fmt::Display;
use std::path::PathBuf;

use clap::Parser;
use serde::{Serialize, Serializer};
use transdiff::models::transdiff::{FlowObjective, Mode, TransDiffConfig};
use transdiff::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig};
use transdiff::{Device, Precision};
use transdiff_terminal::{MAX_COUNT, whole};

use crate::digits::{CLASSES, LATENT_SIDE};

/// Groups of the multi-reference model, each of 2×2 tokens.
const GROUPS: usize = 4;
/// Number of channels of a latent.
const CHANNELS: usize = 4;
/// Maximum number of samples, which are generated in one batch.
const MAX_SAMPLES: usize = 10_000;

/// Trains TransDiff on 1,200 handwritten digits and generates new ones.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(after_help = "Examples:
  cargo run --release --example quickstart
  cargo run --release --example quickstart -- --mrar --out mrar
  cargo run --release --example quickstart -- --steps 200    # a quick look

Ctrl-C writes a checkpoint; the same command resumes from it.")]
pub struct Settings {
    /// Output directory for figures, samples, report, checkpoints and the digits as a latent cache
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    pub out: PathBuf,
    /// Training steps of the 1-step model, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = whole(1..=MAX_COUNT as u64))]
    #[arg(allow_negative_numbers = true)]
    pub steps: u64,
    /// Fine-tune with reference images and generate in four AR steps
    #[arg(long)]
    pub mrar: bool,
    /// Training steps of the MRAR fine-tuning, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 1200, value_parser = whole(1..=MAX_COUNT as u64))]
    #[arg(allow_negative_numbers = true)]
    pub mrar_steps: u64,
    /// Number of digits to generate, a multiple of 10 up to 10000: the same number per class
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_samples)]
    #[arg(allow_negative_numbers = true)]
    pub samples: usize,
    /// Sampling steps per AR step, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = whole(1..=MAX_COUNT))]
    #[arg(allow_negative_numbers = true)]
    pub sampling_steps: usize,
    /// Number format of generation; int8 only on the CPU
    #[arg(long, value_name = "f32|bf16|int8", default_value = "f32")]
    #[serde(serialize_with = "serialize_text")]
    pub dtype: Precision,
    /// Seed of sampling, 0 to 4294967295 [default: that of --seed]
    #[arg(long, value_name = "N", value_parser = whole(0..=u64::from(u32::MAX)), allow_negative_numbers = true)]
    pub sampling_seed: Option<u64>,
    /// Seed of initialisation, training and sampling
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole(0..=u64::MAX))]
    #[arg(allow_negative_numbers = true)]
    pub seed: u64,
    /// Device: cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "serialize_text")]
    pub device: Device,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Ignore existing checkpoints and train from scratch
    #[arg(long)]
    pub fresh: bool,
}

fn serialize_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn parse_samples(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_SAMPLES).contains(&n) && n % CLASSES == 0 => Ok(n),
        _ => Err(format!("expected a multiple of {CLASSES} from {CLASSES} to {MAX_SAMPLES}")),
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
        distilled: false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_rejected() {
        for (flag, value, named) in [
            ("--steps", "4000000000", "expected an integer of at most 1000000"),
            ("--steps", "-1", "expected an integer of at least 1"),
            ("--mrar-steps", "1000001", "expected an integer of at most 1000000"),
            ("--sampling-steps", "0", "expected an integer of at least 1"),
            ("--samples", "4000000000", "expected a multiple of 10 from 10 to 10000"),
            ("--samples", "-10", "expected a multiple of 10 from 10 to 10000"),
            ("--samples", "15", "expected a multiple of 10 from 10 to 10000"),
            ("--seed", "-1", "expected an integer of at least 0"),
            ("--threads", "-1", "expected an integer of at least 1"),
            ("--dtype", "fp8", "expected f32, bf16 or int8, got \"fp8\""),
        ] {
            let error = Settings::try_parse_from(["quickstart", flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(named), "{error}");
        }
    }
}
