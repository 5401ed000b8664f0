//! Estimate of a training run's memory and work.

use super::{TrainConfig, Trainer};
use crate::backend::Summation;
use crate::metering::Meter;
use crate::models::{SampleKey, Samples, Trainable};
use crate::{DType, Result, Tensor};

/// Samples of the largest batch that is metered.
const METERED: usize = 64;

/// Estimate of a training run. Bytes are those of the device: host memory on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingEstimate {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the optimiser's moments.
    pub optimizer: u64,
    /// Bytes of the EMA weights of the trained parameters.
    pub ema: u64,
    /// Bytes of the gradients of the trained parameters, as many sums of them as a step keeps.
    pub gradients: u64,
    /// Bytes at the peak of a forward and backward pass beyond all that: saved activations, the batch and its noise.
    pub activations: u64,
    /// Floating-point operations of the matrix products and attentions of a step.
    pub flops_per_step: u64,
}

impl TrainingEstimate {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.state().saturating_add(self.gradients).saturating_add(self.activations)
    }

    /// Bytes that are kept between steps: weights, moments and EMA. A snapshot that is being written takes as much again.
    pub fn state(&self) -> u64 {
        self.weights + self.optimizer + self.ema
    }

    /// Estimate for a model of `config` and the settings `train`: the steps run on the [metering backend](Meter), which
    /// computes nothing, so that the count is that of the training code itself. Batches of any size can be estimated: beyond
    /// 64 samples, whose noise is drawn, the counts grow as they do from 32 to 64. `summation` is that of the
    /// [device](crate::backend::TrainOps::summation).
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for settings or sizes that are out of range.
    pub fn new<M: Trainable<Meter>>(
        config: &M::Config,
        train: &TrainConfig<M::Objective>,
        summation: Summation,
    ) -> Result<Self> {
        Self::of_model(|meter| M::zeros(meter, config, DType::F32), train, summation)
    }

    /// The estimate for the model that `make` makes on the metering backend.
    ///
    /// # Errors
    /// As [`new`](Self::new), and those of `make`.
    pub fn of_model<M: Trainable<Meter>>(
        make: impl Fn(&Meter) -> Result<M>,
        train: &TrainConfig<M::Objective>,
        summation: Summation,
    ) -> Result<Self> {
        let estimate = Self::of_two_passes(&make, train)?;
        let sums = summation.kept(train.accumulate).max(1) as u64;
        Ok(Self { gradients: estimate.gradients.saturating_mul(sums), ..estimate })
    }

    /// The estimate for one of `ranks` that divide the optimiser's state: moments and EMA in equal parts.
    #[must_use]
    pub fn divided_among(self, ranks: usize) -> Self {
        let part = |bytes: u64| bytes.div_ceil(ranks.max(1) as u64);
        Self { optimizer: part(self.optimizer), ema: part(self.ema), ..self }
    }

    /// The estimate of a step of two passes, beside which more passes keep more sums of gradients.
    fn of_two_passes<M: Trainable<Meter>>(
        make: &impl Fn(&Meter) -> Result<M>,
        train: &TrainConfig<M::Objective>,
    ) -> Result<Self> {
        if train.batch <= METERED {
            return Self::metered(make, train);
        }
        train.validate()?;
        let of = |batch| Self::metered(make, &TrainConfig { batch, ..train.clone() });
        let (half, whole) = (of(METERED / 2)?, of(METERED)?);
        let more = (train.batch - METERED) as u64;
        let grown = |half: u64, whole: u64| {
            let growth = u128::from(whole - half) * u128::from(more) / (METERED as u128 / 2);
            whole.saturating_add(u64::try_from(growth).unwrap_or(u64::MAX))
        };
        Ok(Self {
            activations: grown(half.activations, whole.activations),
            flops_per_step: grown(half.flops_per_step, whole.flops_per_step),
            ..whole
        })
    }

    /// Runs the steps.
    fn metered<M: Trainable<Meter>>(
        make: &impl Fn(&Meter) -> Result<M>,
        train: &TrainConfig<M::Objective>,
    ) -> Result<Self> {
        let meter = Meter::default();
        let model = make(&meter)?;
        let (weights, before) = (meter.live_bytes(), meter.flops());
        // Two passes show the gradients of the first beside the activations of the second.
        let passes = train.accumulate.min(2);
        let mut trainer = Trainer::new(model, TrainConfig { accumulate: passes, ..train.clone() })?;
        let optimizer = meter.live_bytes() - weights;
        let (loss, grads) = trainer.accumulate(passes, 0, |_| batch(trainer.model(), train))?;
        let trained = trainer.model().params().into_iter().filter(|(_, param)| param.is_trainable());
        let bytes = |value: &Tensor<Meter>| (value.numel() * value.dtype().size()) as u64;
        let gradients = trained.map(|(_, param)| bytes(param.value())).sum();
        trainer.update(loss, &grads, 0)?;
        drop(grads);
        // Of the trained weights. Copies of weights in the type that passes compute in are among the activations.
        let ema = gradients;
        // The EMA weights take their memory in the first update, after the peak of the first step.
        let activations = meter.peak_bytes().saturating_sub(weights + optimizer + gradients);
        let flops_per_step =
            ((meter.flops() - before) / passes as u64).saturating_mul(train.accumulate as u64);
        Ok(Self { weights, optimizer, ema, gradients, activations, flops_per_step })
    }
}

/// Batch of zeros; the draws of all samples are those of the first.
fn batch<M: Trainable<Meter>>(model: &M, train: &TrainConfig<M::Objective>) -> Result<M::Batch> {
    let shape = model.sample_shape();
    let [c, h, w] = shape.latent;
    let latents = (0..shape.latents_per_sample)
        .map(|_| Tensor::zeros(model.backend(), &[train.batch, c, h, w], model.dtype()))
        .collect::<Result<_>>()?;
    let draws = M::draw(&shape, &train.objective, SampleKey { seed: 0, number: 0 });
    model.batch(Samples { labels: vec![0; train.batch], latents }, vec![draws; train.batch])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;
    use crate::models::transdiff::{ConsistencyObjective, Distillation, Mode, TransDiff, TransDiffConfig};

    #[test]
    fn counts_of_large_batches_are_extrapolated() {
        let config = TransDiffConfig {
            width: 16,
            heads: 2,
            encoder_blocks: 2,
            decoder_blocks: 2,
            mlp_ratio: 2,
            classes: 3,
            buffer_size: 2,
            feature_tokens: 4,
            latent_channels: 2,
            latent_size: 2,
            mode: Mode::OneStep,
            distilled: false,
        };
        let train = |batch| TrainConfig { accumulate: 3, ..TrainConfig::new(batch, 10) };
        let make = |meter: &Meter| TransDiff::zeros(meter, &config, DType::F32);
        let (whole, exact) = (
            TrainingEstimate::of_two_passes(&make, &train(200)).unwrap(),
            TrainingEstimate::metered(&make, &train(200)).unwrap(),
        );
        let ratio = |a: u64, b: u64| (a as f64 / b as f64 - 1.0).abs();
        assert!(ratio(whole.total(), exact.total()) < 0.01, "{whole:?} {exact:?}");
        assert!(ratio(whole.flops_per_step, exact.flops_per_step) < 0.01, "{whole:?} {exact:?}");
        let largest = TrainingEstimate::of_two_passes(&make, &train(u32::MAX as usize)).unwrap();
        assert!(largest.total() > 1 << 40, "{largest:?}");
    }

    #[test]
    fn the_conditioning_of_a_teacher_is_no_work_of_a_step() {
        let flops = |classes| {
            let config = TransDiffConfig {
                width: 16,
                heads: 2,
                encoder_blocks: 1,
                decoder_blocks: 1,
                mlp_ratio: 2,
                classes,
                buffer_size: 2,
                feature_tokens: 4,
                latent_channels: 2,
                latent_size: 2,
                mode: Mode::OneStep,
                distilled: false,
            };
            let make = |meter: &Meter| Distillation::new(&TransDiff::zeros(meter, &config, DType::F32)?);
            let train = TrainConfig::<ConsistencyObjective>::new(4, 10);
            TrainingEstimate::metered(&make, &train).unwrap().flops_per_step
        };
        assert_eq!(flops(3), flops(300));
    }
}
