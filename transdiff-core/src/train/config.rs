//! Settings of a training run.

use serde::{Deserialize, Serialize};

use crate::models::transdiff::FlowObjective;
use crate::{DType, Error, Result};

/// Decay of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrDecay {
    /// Peak rate to the end.
    Constant,
    /// A half cosine from the peak rate to `min`, reached after the last step.
    Cosine {
        /// Rate at the end.
        min: f64,
    },
    /// The peak rate until `from` (a fraction of all steps), then linearly to 0 after the last step.
    Linear {
        /// Share of all steps after which the decay begins, in [0, 1).
        from: f64,
    },
}

/// Schedule of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LrSchedule {
    /// The rate after the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises linearly from 0.
    pub warmup: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Decay after the warm-up.
    pub decay: LrDecay,
}

impl LrSchedule {
    /// The published rule for a rate that is not given: `base_rate` · effective batch / 256.
    pub fn scaled_peak(base_rate: f64, effective_batch: usize) -> f64 {
        base_rate * effective_batch as f64 / 256.0
    }

    /// Learning rate of step `step`, from 0. Step s of the warm-up has s/warmup of the peak: the first step does not
    /// move the weights.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let (done, total) = (step as f64, self.total.max(1) as f64);
        match self.decay {
            LrDecay::Constant => self.peak,
            LrDecay::Cosine { min } => {
                let span = self.total.saturating_sub(self.warmup).max(1) as f64;
                let share = ((done - self.warmup as f64) / span).min(1.0);
                min + (self.peak - min) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
            }
            LrDecay::Linear { from } if done < from * total => self.peak,
            LrDecay::Linear { from } => self.peak * ((total - done) / (total * (1.0 - from))).max(0.0),
        }
    }
}

/// Exponential moving average (EMA) of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmaConfig {
    /// Decay, in [0, 1]: 0.9999 in the paper (0.999 at 512 px).
    pub decay: f64,
    /// Uses min(decay, (1 + s)/(10 + s)) in step s, so that short runs forget their beginning.
    pub warmup: bool,
}

impl EmaConfig {
    /// Decay of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let early = (1.0 + step as f64) / (10.0 + step as f64);
        if self.warmup { self.decay.min(early) } else { self.decay }
    }
}

/// Combination of the gradients of a step's forward passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accumulation {
    /// Mean: a step does not depend on the number of passes that its samples are divided into.
    #[default]
    Mean,
    /// Sum, as the published implementation: clipping applies to the sum.
    Sum,
}

/// Settings of a training run. [`TrainConfig::new`] has the paper's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig<O = FlowObjective> {
    /// Seed of everything random in the run except the initial weights.
    pub seed: u64,
    /// Samples of one forward pass: images in one step, groups of images with multi-reference autoregression.
    pub batch: usize,
    /// Forward passes of one step.
    pub accumulate: usize,
    /// Combination of their gradients.
    #[serde(default)]
    pub accumulate_as: Accumulation,
    /// Dropout rate of AR transformer and decoder.
    pub dropout: f32,
    /// Settings of the loss.
    pub objective: O,
    /// The learning rate.
    pub lr: LrSchedule,
    /// Decay rates of AdamW's moments.
    pub betas: [f64; 2],
    /// Epsilon, added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, for the parameters whose [group](crate::models::ParamGroup) has it.
    pub weight_decay: f64,
    /// Largest global gradient norm; larger gradients are scaled down to it.
    pub max_grad_norm: f64,
    /// EMA of the weights.
    pub ema: EmaConfig,
    /// Name prefixes of the trainable parameters; empty: all. `diffdecoder.` trains the decoder alone.
    pub trainable_prefixes: Vec<String>,
    /// Gradient checkpointing: recomputes blocks in the backward pass instead of storing their activations.
    pub gradient_checkpointing: bool,
    /// Type that forward and backward passes compute in. In bf16, loss, sums of gradients, weights, moments and EMA
    /// stay f32, if the model is.
    #[serde(default = "default_compute")]
    pub compute: DType,
}

/// Default for checkpoints that do not record the type.
fn default_compute() -> DType {
    DType::F32
}

impl TrainConfig {
    /// Metadata key of the settings in checkpoints.
    pub const METADATA_KEY: &'static str = crate::models::TRAIN_KEY;
}

impl<O: Default> TrainConfig<O> {
    /// The paper's settings for a run of `total` steps with samples in batches of `batch`.
    pub fn new(batch: usize, total: u64) -> Self {
        let peak = LrSchedule::scaled_peak(1e-4, batch);
        Self {
            seed: 0,
            batch,
            accumulate: 1,
            accumulate_as: Accumulation::Mean,
            dropout: 0.1,
            objective: O::default(),
            lr: LrSchedule { peak, warmup: total / 8, total, decay: LrDecay::Constant },
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.02,
            max_grad_norm: 3.0,
            ema: EmaConfig { decay: 0.9999, warmup: false },
            trainable_prefixes: Vec::new(),
            gradient_checkpointing: false,
            compute: default_compute(),
        }
    }
}

impl<O> TrainConfig<O> {
    /// The same settings with those of another loss.
    pub fn with_objective<P>(self, objective: P) -> TrainConfig<P> {
        TrainConfig {
            seed: self.seed,
            batch: self.batch,
            accumulate: self.accumulate,
            accumulate_as: self.accumulate_as,
            dropout: self.dropout,
            objective,
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            ema: self.ema,
            trainable_prefixes: self.trainable_prefixes,
            gradient_checkpointing: self.gradient_checkpointing,
            compute: self.compute,
        }
    }

    /// Checks every setting but those of the loss.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [("batch", self.batch), ("accumulate", self.accumulate)] {
            if value == 0 || u32::try_from(value).is_err() {
                return Err(Error::config(field, "a number in 1..2^32", value));
            }
        }
        if !self.compute.is_float() {
            return Err(Error::config("compute", "a float type", self.compute));
        }
        let ranges = [
            ("dropout", f64::from(self.dropout), 0.0, 1.0 - f64::EPSILON),
            ("lr.peak", self.lr.peak, 0.0, f64::MAX),
            ("betas[0]", self.betas[0], 0.0, 1.0 - f64::EPSILON),
            ("betas[1]", self.betas[1], 0.0, 1.0 - f64::EPSILON),
            ("eps", self.eps, f64::MIN_POSITIVE, f64::MAX),
            ("weight_decay", self.weight_decay, 0.0, f64::MAX),
            ("max_grad_norm", self.max_grad_norm, f64::MIN_POSITIVE, f64::MAX),
            ("ema.decay", self.ema.decay, 0.0, 1.0),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::config(field, format!("a number in [{low}, {high}]"), value));
            }
        }
        match self.lr.decay {
            LrDecay::Cosine { min } if !(0.0..=self.lr.peak).contains(&min) => {
                Err(Error::config("lr.decay", format!("min in [0, {}], the peak", self.lr.peak), min))
            }
            LrDecay::Linear { from } if !(0.0..1.0).contains(&from) => {
                Err(Error::config("lr.decay", "from in [0, 1)", from))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rate_follows_its_schedule() {
        let lr = |decay| LrSchedule { peak: 2.0, warmup: 4, total: 100, decay };
        let linear = lr(LrDecay::Linear { from: 0.6 });
        assert_eq!([0, 3, 4, 59].map(|s| linear.at(s)), [0.0, 1.5, 2.0, 2.0]);
        assert_eq!([60, 80, 100].map(|s| linear.at(s)), [2.0, 1.0, 0.0]);
        let cosine = lr(LrDecay::Cosine { min: 0.5 });
        assert!((cosine.at(52) - 1.25).abs() < 1e-12 && (cosine.at(100) - 0.5).abs() < 1e-12);
        assert_eq!(lr(LrDecay::Constant).at(99), 2.0);
        assert_eq!(LrSchedule::scaled_peak(1e-4, 2048), 8e-4);
    }

    #[test]
    fn ema_warms_up() {
        let ema = EmaConfig { decay: 0.995, warmup: true };
        assert_eq!((ema.at(0), ema.at(5000)), (0.1, 0.995));
        assert_eq!(EmaConfig { decay: 0.9, warmup: false }.at(0), 0.9);
    }

    #[test]
    fn invalid_settings_are_named() {
        let good: TrainConfig = TrainConfig::new(8, 100);
        good.validate().unwrap();
        let field = |config: TrainConfig| match config.validate() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a config error, got {other:?}"),
        };
        assert_eq!(field(TrainConfig { batch: 0, ..good.clone() }), "batch");
        assert_eq!(field(TrainConfig { dropout: 1.0, ..good.clone() }), "dropout");
        assert_eq!(field(TrainConfig { max_grad_norm: f64::NAN, ..good.clone() }), "max_grad_norm");
        assert_eq!(field(TrainConfig { compute: DType::I32, ..good.clone() }), "compute");
        let lr = LrSchedule { decay: LrDecay::Linear { from: 1.0 }, ..good.lr };
        assert_eq!(field(TrainConfig { lr, ..good.clone() }), "lr.decay");
    }
}
