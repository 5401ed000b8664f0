//! Sizes and recipes of the study.

use serde::Serialize;
use transdiff::models::transdiff::{ConsistencyObjective, FlowObjective, Mode, TransDiffConfig};
use transdiff::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig};

use crate::experiments::PAPER_GUIDANCE;
use crate::pictures::CLASSES;
use crate::units::ModelName;

/// Sizes and recipes. Results of different scales cannot be compared, so a directory holds those of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// Side of the patches whose pixels are the channels of a latent.
    pub patch: usize,
    /// Side of a latent; its positions are the tokens of the decoder, and as many features describe an image.
    pub latent_size: usize,
    /// Width of the model.
    pub width: usize,
    /// Hidden layers of the classifier; the last are the features that images are measured with.
    pub hidden: [usize; 2],
    /// Training of the classifier.
    pub classifier: Recipe,
    /// Training of the base model.
    pub base: Recipe,
    /// Training of the models that start from the base model.
    pub further: Recipe,
    /// Distillation of the students.
    pub distillation: Recipe,
    /// Steps after which the base model is measured, before its last one.
    pub snapshots: Vec<u64>,
    /// Images per set, a multiple of the number of classes.
    pub images: usize,
    /// Sampling steps per AR step.
    pub sampling_steps: usize,
}

/// Length and learning rate of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Number of steps.
    pub steps: u64,
    /// Images per step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub peak: f64,
}

impl Scale {
    /// The study on 28×28 pixels for two CPU cores.
    pub fn miniature() -> Self {
        Self {
            patch: 7,
            latent_size: 4,
            width: 64,
            hidden: [256, 64],
            classifier: Recipe { steps: 4000, batch: 128, peak: 1e-3 },
            base: Recipe { steps: 3000, batch: 32, peak: 2e-3 },
            further: Recipe { steps: 1000, batch: 32, peak: 1e-3 },
            distillation: Recipe { steps: 250, batch: 32, peak: 2e-4 },
            snapshots: vec![200, 400, 800, 1600],
            images: 1000,
            sampling_steps: 20,
        }
    }

    /// Side of a picture in pixels.
    pub fn side(&self) -> usize {
        self.patch * self.latent_size
    }

    /// Number of features per image.
    pub fn features(&self) -> usize {
        self.latent_size * self.latent_size
    }

    /// Configuration of a model in `mode`.
    pub fn model(&self, mode: Mode) -> TransDiffConfig {
        TransDiffConfig {
            width: self.width,
            heads: 4,
            encoder_blocks: 4,
            decoder_blocks: 3,
            mlp_ratio: 4,
            classes: CLASSES.len(),
            buffer_size: 4,
            feature_tokens: self.features(),
            latent_channels: self.patch * self.patch,
            latent_size: self.latent_size,
            mode,
            distilled: false,
        }
    }

    /// Recipe of a model.
    pub fn recipe(&self, model: ModelName) -> Recipe {
        match model {
            ModelName::Base | ModelName::BaseAt(_) => self.base,
            ModelName::OneStep | ModelName::Mrar(_) => self.further,
            ModelName::Student(_) => self.distillation,
        }
    }

    /// Settings of the training of `model`. A sample is an image per AR step, so that a step takes as many images with every
    /// number of AR steps.
    pub fn training(&self, model: ModelName, seed: u64) -> TrainConfig {
        let objective = FlowObjective { batch_mul: 2, ..FlowObjective::default() };
        TrainConfig { objective, ..self.recipe(model).config(model.groups(), seed) }
    }

    /// Settings of the distillation of the student `model`.
    pub fn distilling(&self, model: ModelName, seed: u64) -> TrainConfig<ConsistencyObjective> {
        let Recipe { steps, batch, peak } = self.recipe(model);
        let settings = TrainConfig::distillation((batch / model.groups()).max(1), steps);
        TrainConfig {
            seed,
            objective: ConsistencyObjective {
                batch_mul: 3,
                guidance: PAPER_GUIDANCE,
                ..ConsistencyObjective::default()
            },
            lr: LrSchedule { peak, ..settings.lr },
            ..settings
        }
    }
}

impl Recipe {
    /// Settings of a training with this recipe, samples of `group` images and the default objective.
    pub fn config<O: Default>(&self, group: usize, seed: u64) -> TrainConfig<O> {
        let Self { steps, batch, peak } = *self;
        TrainConfig {
            seed,
            dropout: 0.0,
            weight_decay: 0.0,
            lr: LrSchedule {
                peak,
                warmup: 100.min(steps / 2),
                total: steps,
                decay: LrDecay::Linear { from: 0.5 },
            },
            ema: EmaConfig { decay: 0.998, warmup: true },
            ..TrainConfig::<O>::new((batch / group).max(1), steps)
        }
    }
}
