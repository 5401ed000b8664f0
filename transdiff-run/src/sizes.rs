//! Settings that follow from the data: sizes of the model, batch and learning rate of the preset `small`.
//!
//! The rule. A model for many or large pictures is larger: the level is the mean, rounded down, of a level by the number of
//! pictures (0 below 10,000, 1 below 50,000, 2 below 200,000, 3 from there) and one by their side in pixels (0 up to 32,
//! 1 up to 64, 2 up to 128, 3 beyond). Level 0 is the model of the quickstart.
//!
//! | level | width | heads | AR blocks | decoder blocks |
//! |---|---|---|---|---|
//! | 0 | 96 | 4 | 4 | 3 |
//! | 1 | 128 | 4 | 6 | 4 |
//! | 2 | 192 | 6 | 8 | 6 |
//! | 3 | 256 | 8 | 12 | 8 |
//!
//! There is a feature per position of the latent, at most 256, and a class token per 16 features, at least 4. A step has 64
//! samples: the batch is the largest power of two, at most 64, whose activations take about 2 GiB, and passes are
//! accumulated to 64. A batch that is given is not accumulated. The base learning rate is 8e-3 at width 96 and inversely
//! proportional to the width: 2e-3 for a step of 64 samples.

use transdiff_core::DType;
use transdiff_core::models::transdiff::{ConsistencyObjective, FlowObjective, Mode, TransDiffConfig};
use transdiff_core::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig};

use crate::settings::{
    Compute, Decay, Fit, LearningRate, ModelSettings, Result, RunConfig, SettingError, required,
};

/// Facts about the training data.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFacts {
    /// Number of pictures.
    pub pictures: u64,
    /// Number of classes.
    pub classes: usize,
    /// Shape [C, h, w] of a latent.
    pub latent: [usize; 3],
    /// Codec, as [`crate::settings::DataSettings::codec`] names it.
    pub codec: String,
    /// Side of the pictures in pixels.
    pub size: usize,
    /// Colour channels, 1 or 3.
    pub channels: usize,
    /// Way in which pictures became squares.
    pub fit: Fit,
    /// Mirror images.
    pub flip: bool,
}

/// Width, heads, AR blocks and decoder blocks by level.
const LEVELS: [[usize; 4]; 4] = [[96, 4, 4, 3], [128, 4, 6, 4], [192, 6, 8, 6], [256, 8, 12, 8]];
/// Samples of a step of the preset `small`.
const SAMPLES_PER_STEP: usize = 64;
/// Memory for the activations of a batch, in bytes.
const ACTIVATION_BYTES: usize = 2 << 30;
/// Activations per token and block that the backward pass reads, in units of the width: attention's input, q, k, v and
/// output, and an MLP of ratio 4 before and after its activation.
const ACTIVATIONS_PER_TOKEN: usize = 16;

impl RunConfig {
    /// The settings with those that follow from the data.
    ///
    /// # Errors
    /// [`SettingError`] for a setting that contradicts the data, with both values.
    pub fn complete(&self, data: &DataFacts) -> Result<Self> {
        let mut config = self.clone();
        let [channels, height, width] = data.latent;
        if height != width {
            let message = format!("expected square latents, got {height}×{width}");
            return Err(SettingError::new("model.latent_size", message));
        }
        agree("model.classes", &mut config.model.classes, data.classes)?;
        agree("model.latent_channels", &mut config.model.latent_channels, channels)?;
        agree("model.latent_size", &mut config.model.latent_size, height)?;
        agree("data.size", &mut config.data.size, data.size)?;
        agree("data.channels", &mut config.data.channels, data.channels)?;
        config.data.codec.get_or_insert_with(|| data.codec.clone());
        config.data.fit.get_or_insert(data.fit);
        config.data.flip.get_or_insert(data.flip);

        let model = &mut config.model;
        let [width, heads, encoder_blocks, decoder_blocks] = LEVELS[level(data)];
        model.width.get_or_insert(width);
        model.heads.get_or_insert(heads);
        model.encoder_blocks.get_or_insert(encoder_blocks);
        model.decoder_blocks.get_or_insert(decoder_blocks);
        let features = *model.feature_tokens.get_or_insert((height * height).min(256));
        model.buffer_size.get_or_insert((features / 16).max(4));
        let given = config.train.batch.is_some();
        let sample = activation_bytes(&config.model, config.train.batch_mul);
        let batch = *config.train.batch.get_or_insert_with(|| batch_for(sample));
        config.train.accumulate.get_or_insert(if given { 1 } else { SAMPLES_PER_STEP / batch });
        let base = 8e-3 * 96.0 / config.model.width.unwrap_or(width) as f64;
        config.train.base_lr.get_or_insert(base);
        config.transdiff_config()?;
        config.consistency_objective()?;
        if let (Some(_), Some(init)) = (&config.distill.teacher, &config.train.init) {
            let message = format!("expected none, because a student begins as its teacher, got {init}");
            return Err(SettingError::new("train.init", message));
        }
        Ok(config)
    }

    /// Configuration of the model.
    ///
    /// # Errors
    /// [`SettingError`] for a size that is missing, or sizes that do not fit together.
    pub fn transdiff_config(&self) -> Result<TransDiffConfig> {
        let model = &self.model;
        let groups = model.groups;
        let config = TransDiffConfig {
            width: required("model.width", model.width)?,
            heads: required("model.heads", model.heads)?,
            encoder_blocks: required("model.encoder_blocks", model.encoder_blocks)?,
            decoder_blocks: required("model.decoder_blocks", model.decoder_blocks)?,
            mlp_ratio: model.mlp_ratio,
            classes: required("model.classes", model.classes)?,
            buffer_size: required("model.buffer_size", model.buffer_size)?,
            feature_tokens: required("model.feature_tokens", model.feature_tokens)?,
            latent_channels: required("model.latent_channels", model.latent_channels)?,
            latent_size: required("model.latent_size", model.latent_size)?,
            mode: if groups == 1 { Mode::OneStep } else { Mode::MultiReference { groups } },
            distilled: self.distill.teacher.is_some(),
        };
        config.validate().map_err(|e| match e {
            transdiff_core::Error::Config { field, expected, got } => {
                SettingError::new(format!("model.{field}"), format!("expected {expected}, got {got}"))
            }
            other => SettingError::new("model", other.to_string()),
        })?;
        Ok(config)
    }

    /// Samples of a step on `ranks` devices: batch · accumulate · ranks.
    ///
    /// # Errors
    /// [`SettingError`] for settings that are not complete.
    pub fn samples_per_step(&self, ranks: usize) -> Result<usize> {
        let batch = required("train.batch", self.train.batch)?;
        let samples = batch.checked_mul(required("train.accumulate", self.train.accumulate)?);
        samples.and_then(|samples| samples.checked_mul(ranks)).ok_or_else(|| {
            SettingError::new(
                "train.batch",
                "expected fewer samples per step: batch · accumulate · ranks is too large",
            )
        })
    }

    /// The learning rate of a run on data with `samples` samples per epoch, on `ranks` devices.
    ///
    /// # Errors
    /// [`SettingError`] for settings that are not complete, or a number of steps beyond 32 bits.
    pub fn lr_schedule(&self, samples: u64, ranks: usize) -> Result<LrSchedule> {
        let (train, per_step) = (&self.train, self.samples_per_step(ranks)?);
        let steps_of = |epochs: f64| (epochs * samples as f64 / per_step as f64).floor();
        let total = match (train.steps, train.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => steps_of(required("train.steps", epochs)?).max(1.0) as u64,
        };
        if total > u64::from(u32::MAX) {
            let message = format!("expected at most {} steps, got {total}", u32::MAX);
            return Err(SettingError::new("train.epochs", message));
        }
        let warmup = match (train.warmup, train.warmup_epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => steps_of(epochs.unwrap_or(0.0)) as u64,
        };
        let peak = match train.lr {
            LearningRate::Value(rate) => rate,
            LearningRate::Rule(_) => {
                LrSchedule::scaled_peak(required("train.base_lr", train.base_lr)?, per_step)
            }
        };
        let decay = match train.decay {
            Decay::Constant => LrDecay::Constant,
            Decay::Cosine => LrDecay::Cosine { min: train.min_lr },
            Decay::Linear => LrDecay::Linear { from: train.decay_from },
        };
        Ok(LrSchedule { peak, warmup: warmup.min(total), total, decay })
    }

    /// Settings of the loss of a distillation.
    ///
    /// # Errors
    /// [`SettingError`] for an interval of guidance that ends before it begins.
    pub fn consistency_objective(&self) -> Result<ConsistencyObjective> {
        let [low, high] = self.distill.guidance_interval;
        if low > high {
            let message = format!("expected the lower time first, got {low}, {high}");
            return Err(SettingError::new("distill.guidance_interval", message));
        }
        Ok(ConsistencyObjective {
            batch_mul: self.train.batch_mul,
            guidance: self.distill.guidance.unwrap_or(1.0),
            guidance_interval: (low, high),
            huber: self.distill.huber,
        })
    }

    /// Settings of the trainer, for data with `samples` samples per epoch, on `ranks` devices. `gpu` resolves the type
    /// `auto`.
    ///
    /// # Errors
    /// [`SettingError`] as [`Self::lr_schedule`], and for settings that the trainer does not accept together.
    pub fn train_config(&self, samples: u64, ranks: usize, gpu: bool) -> Result<TrainConfig> {
        let train = &self.train;
        let lr = self.lr_schedule(samples, ranks)?;
        let batch = required("train.batch", train.batch)?;
        let (label_drop, diversity) = (train.label_drop, train.diversity);
        let config = TrainConfig {
            seed: train.seed,
            accumulate: required("train.accumulate", train.accumulate)?,
            accumulate_as: train.accumulate_as,
            dropout: train.dropout as f32,
            objective: FlowObjective { batch_mul: train.batch_mul, label_drop, diversity },
            lr,
            betas: train.betas,
            eps: train.eps,
            weight_decay: train.weight_decay,
            max_grad_norm: train.max_grad_norm,
            ema: EmaConfig { decay: train.ema_decay, warmup: train.ema_warmup },
            trainable_prefixes: train.trainable.clone(),
            gradient_checkpointing: train.gradient_checkpointing,
            compute: match train.compute {
                Compute::Bf16 => DType::BF16,
                Compute::Auto if gpu => DType::BF16,
                Compute::Auto | Compute::F32 => DType::F32,
            },
            ..TrainConfig::new(batch, lr.total)
        };
        config.validate().map_err(|e| SettingError::new("[train]", e.to_string()))?;
        Ok(config)
    }
}

/// Sets a setting that was not given; one that was given has to be that of the data.
fn agree(key: &str, setting: &mut Option<usize>, data: usize) -> Result<()> {
    match *setting.get_or_insert(data) {
        given if given == data => Ok(()),
        given => Err(SettingError::new(key, format!("expected {data}, as the data has, got {given}"))),
    }
}

/// Level of the model, an index of [`LEVELS`].
fn level(data: &DataFacts) -> usize {
    let by_pictures = [10_000, 50_000, 200_000].into_iter().filter(|&limit| data.pictures >= limit).count();
    let by_side = [32, 64, 128].into_iter().filter(|&limit| data.size > limit).count();
    (by_pictures + by_side) / 2
}

/// Estimate of the activations of a sample in f32, in bytes. It decides the batch alone, and is no memory estimate.
fn activation_bytes(model: &ModelSettings, batch_mul: usize) -> usize {
    let size = |size: Option<usize>| size.unwrap_or(1);
    let positions = size(model.latent_size).saturating_pow(2);
    let tokens = size(model.buffer_size).saturating_add(size(model.feature_tokens));
    let encoder = size(model.encoder_blocks).saturating_mul(tokens);
    let decoder =
        size(model.decoder_blocks).saturating_mul(positions).saturating_mul(batch_mul * model.groups);
    let values = encoder.saturating_add(decoder).saturating_mul(size(model.width));
    values.saturating_mul(4 * ACTIVATIONS_PER_TOKEN)
}

fn batch_for(sample: usize) -> usize {
    let fitting = (ACTIVATION_BYTES / sample.max(1)).clamp(1, SAMPLES_PER_STEP);
    1 << fitting.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn data(pictures: u64, size: usize, latent: [usize; 3]) -> DataFacts {
        let (codec, fit) = ("patch:4".to_owned(), Fit::Crop);
        DataFacts { pictures, classes: 10, latent, codec, size, channels: 3, fit, flip: true }
    }

    fn small(assignments: &[&str], data: &DataFacts) -> Result<RunConfig> {
        let mut layers = presets::layers("small").unwrap();
        assignments.iter().try_for_each(|assignment| layers.add_assignment(assignment))?;
        layers.resolve("test")?.complete(data)
    }

    #[test]
    fn small_models_grow_with_pictures_and_their_size() {
        for (pictures, size, latent, level) in [
            (1200, 8, [4, 4, 4], 0),
            (6000, 32, [16, 8, 8], 0),
            (60_000, 32, [16, 8, 8], 1),
            (5000, 64, [48, 16, 16], 0),
            (20_000, 64, [48, 16, 16], 1),
            (1_281_167, 64, [48, 16, 16], 2),
            (1_281_167, 256, [16, 16, 16], 3),
        ] {
            let config = small(&[], &data(pictures, size, latent)).unwrap();
            let model = &config.model;
            let sizes =
                [model.width, model.heads, model.encoder_blocks, model.decoder_blocks].map(Option::unwrap);
            assert_eq!(sizes, LEVELS[level], "{pictures} pictures of {size} px");
            let (batch, accumulate) = (config.train.batch.unwrap(), config.train.accumulate.unwrap());
            assert_eq!(batch * accumulate, SAMPLES_PER_STEP);
        }
    }

    #[test]
    fn small_preset_at_level_0_is_the_recipe_of_the_quickstart() {
        let config = small(&["train.steps=1500"], &data(1200, 8, [4, 4, 4])).unwrap();
        let recipe = config.train_config(1200, 1, true).unwrap();
        let expected = TrainConfig {
            dropout: 0.0,
            objective: FlowObjective { batch_mul: 2, ..FlowObjective::default() },
            lr: LrSchedule { peak: 2e-3, warmup: 50, total: 1500, decay: LrDecay::Linear { from: 0.6 } },
            ema: EmaConfig { decay: 0.995, warmup: true },
            compute: DType::BF16,
            ..TrainConfig::new(64, 1500)
        };
        assert_eq!(recipe, expected);
        assert_eq!(config.transdiff_config().unwrap().buffer_size, 4);
    }

    #[test]
    fn batch_is_accumulated_only_where_it_is_not_given() {
        let data = data(1_281_167, 512, [16, 32, 32]);
        let auto = small(&[], &data).unwrap().train;
        assert!(auto.batch.unwrap() < 64 && auto.accumulate.unwrap() > 1, "{auto:?}");
        let given = small(&["train.batch=32"], &data).unwrap().train;
        assert_eq!((given.batch, given.accumulate), (Some(32), Some(1)));
    }

    #[test]
    fn completed_settings_are_complete_already() {
        let data = data(6000, 32, [16, 8, 8]);
        let config = small(&[], &data).unwrap();
        assert_eq!(config.complete(&data).unwrap(), config);
    }

    #[test]
    fn settings_that_contradict_the_data_are_named() {
        let data = data(6000, 32, [16, 8, 8]);
        for (assignment, message) in [
            ("data.size=64", "data.size: expected 32, as the data has, got 64"),
            ("data.channels=1", "data.channels: expected 3, as the data has, got 1"),
            ("model.classes=7", "model.classes: expected 10, as the data has, got 7"),
            ("model.heads=5", "model.heads: expected a divisor of width 96, got 5"),
            ("model.groups=3", "model.groups: expected a divisor of feature_tokens 64, got 3"),
        ] {
            assert_eq!(small(&[assignment], &data).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn automatic_learning_rate_counts_samples_of_all_ranks() {
        let data = data(6000, 32, [16, 8, 8]);
        let lr = |assignments: &[&str], ranks| {
            small(assignments, &data).unwrap().lr_schedule(6000, ranks).unwrap().peak
        };
        assert_eq!(lr(&["train.base_lr=1e-4", "train.batch=256", "train.accumulate=4"], 2), 8e-4);
        assert_eq!(lr(&["train.base_lr=1e-4", "train.batch=256", "train.lr=3e-5"], 2), 3e-5);
    }

    #[test]
    fn epochs_become_steps() {
        let data = data(6000, 32, [16, 8, 8]);
        let config = small(&["train.epochs=2.5", "train.warmup_epochs=1", "train.batch=60"], &data).unwrap();
        let schedule = |ranks| config.lr_schedule(6000, ranks).map(|lr| (lr.total, lr.warmup));
        assert_eq!([schedule(1), schedule(2)], [Ok((250, 100)), Ok((125, 50))]);
        let short = small(&["train.steps=20"], &data).unwrap().lr_schedule(6000, 1).unwrap();
        assert_eq!((short.total, short.warmup), (20, 20));
        let long = small(&["train.epochs=1e12"], &data).unwrap().lr_schedule(6000, 1).unwrap_err();
        assert!(long.to_string().starts_with("train.epochs: expected at most 4294967295 steps"), "{long}");
    }
}
