//! The training loop.

use super::TrainConfig;
use super::optimizer::{Optimizer, ema_step, param_groups};
use crate::autograd::{Context, Gradients, Tape};
use crate::data::{Dataset, ShuffledOrder};
use crate::models::transdiff::TransDiff;
use crate::models::{DrawKey, Samples, Trainable, check_labels};
use crate::{Backend, Error, Result, Tensor};

/// Report of a training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Index of the step, from 0.
    pub step: u64,
    /// The loss, averaged over the step's passes.
    pub loss: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
}

/// A training run: the model, the EMA of its weights, the optimiser and the step. Everything random is a function of the
/// seed and the step, so a run that is resumed from these goes on bitwise identically.
#[derive(Clone, Debug)]
pub struct Trainer<B: Backend, M: Trainable<B> = TransDiff<B>> {
    pub(super) model: M,
    pub(super) ema: M,
    pub(super) optimizer: Optimizer<B>,
    pub(super) config: TrainConfig<M::Objective>,
    pub(super) step: u64,
    order: Option<ShuffledOrder>,
}

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// A run that starts from the weights of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid setting, a type that the backend does not compute in, or if `trainable_prefixes` matches no
    /// parameter.
    pub fn new(mut model: M, config: TrainConfig<M::Objective>) -> Result<Self> {
        prepare(&mut model, &config)?;
        let optimizer = Optimizer::new(&model)?;
        Ok(Self { ema: model.clone(), model, optimizer, config, step: 0, order: None })
    }

    /// The model with the raw weights.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The model with the EMA weights, to generate with.
    pub fn ema(&self) -> &M {
        &self.ema
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer<B> {
        &self.optimizer
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig<M::Objective> {
        &self.config
    }

    /// Changes the settings from the next step on.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid setting, another `trainable_prefixes` (moments exist for the parameters that it names), or another
    /// `batch` or `accumulate` (the position in the data is counted in them).
    pub fn reconfigure(&mut self, config: TrainConfig<M::Objective>) -> Result<()> {
        check::<B, M>(&config, self.model.backend())?;
        if config.trainable_prefixes != self.config.trainable_prefixes {
            let expected = format!("{:?}, as the run began", self.config.trainable_prefixes);
            return Err(Error::config(
                "trainable_prefixes",
                expected,
                format!("{:?}", config.trainable_prefixes),
            ));
        }
        for (field, new, old) in [
            ("batch", config.batch, self.config.batch),
            ("accumulate", config.accumulate, self.config.accumulate),
        ] {
            if new != old {
                return Err(Error::config(field, format!("{old}, as the run began"), new));
            }
        }
        if config.seed != self.config.seed {
            self.order = None;
        }
        self.config = config;
        Ok(())
    }

    /// Number of steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// One step on the next samples of `set`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents are not of the model's shape; [`Error::Argument`] if the set is empty,
    /// has a label that is no class or a class with too few images; [`Error::NonFinite`] if the loss or the
    /// gradients are. The run is then as it was before the step. Only
    /// if the device itself fails in the middle of an update does it have to be resumed from a checkpoint.
    pub fn step(&mut self, set: &dyn Dataset) -> Result<StepReport> {
        let batches =
            (0..self.config.accumulate).map(|pass| self.batch(set, pass)).collect::<Result<Vec<_>>>()?;
        self.step_on(&batches)
    }

    /// One step on given batches, whose gradients are averaged.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_on(&mut self, batches: &[M::Batch]) -> Result<StepReport> {
        let (loss, grads) = self.gradients(batches)?;
        let (step, lr) = (self.step, self.config.lr.at(self.step));
        let backend = self.model.backend().clone();
        // Other holders of the EMA weights keep them as they are. If there is no memory for that, nothing has moved yet.
        for (_, average) in self.ema.params_mut().into_iter().filter(|(_, average)| average.is_trainable()) {
            average.value_mut().make_mut()?;
        }
        let grad_norm = self.optimizer.step(&mut self.model, &grads, &self.config, step)?;
        ema_step(&backend, &mut self.ema, &self.model, self.config.ema.at(step))?;
        self.step += 1;
        Ok(StepReport { step, loss, grad_norm, lr })
    }

    /// The loss averaged over `batches`, and its gradients; nothing moves.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no batch, [`Error::NonFinite`] if the loss is not finite.
    pub fn gradients(&self, batches: &[M::Batch]) -> Result<(f64, Gradients<B>)> {
        if batches.is_empty() {
            return Err(Error::argument("batches", "at least one", "none"));
        }
        let share = 1.0 / batches.len() as f64;
        let (mut total, mut grads) = (0.0, Gradients::new());
        for (pass, batch) in batches.iter().enumerate() {
            let tape = Tape::new();
            // Each pass of a step has dropout masks of its own.
            let dropout_step = step_word(self.step, pass);
            let mut ctx = Context::recording(tape.clone())
                .with_compute_dtype(self.config.compute)
                .with_dropout(self.config.dropout, self.config.seed, dropout_step, 1)?;
            if self.config.gradient_checkpointing {
                ctx = ctx.with_gradient_checkpointing();
            }
            let loss = self.model.loss(&ctx, batch, &self.config.objective)?.affine(share, 0.0)?;
            total += loss.value().item()?;
            if !total.is_finite() {
                return Err(Error::NonFinite { stage: "loss" });
            }
            grads.merge(tape.backward(&loss)?)?;
        }
        Ok((total, grads))
    }

    /// The batch of pass `pass` of the current step.
    fn batch(&mut self, set: &dyn Dataset, pass: usize) -> Result<M::Batch> {
        let shape = self.model.sample_shape();
        if set.latent_shape() != shape.latent {
            let expected = format!("latents {:?}", shape.latent);
            return Err(Error::shape("training data", expected, &set.latent_shape()));
        }
        let samples = self.samples(set, pass)?;
        let labels: Vec<usize> = samples.iter().map(|s| set.label(s[0])).collect();
        check_labels(&labels, shape.classes)?;
        let latents = (0..shape.latents_per_sample)
            .map(|i| self.latents(set, &samples, i))
            .collect::<Result<Vec<_>>>()?;
        let key = DrawKey { seed: self.config.seed, step: self.step as u32, pass };
        self.model.draw(Samples { labels, latents }, &self.config.objective, key)
    }

    /// Indices of the latents of every sample of a pass. An order that was made for another set is made anew.
    fn samples(&mut self, set: &dyn Dataset, pass: usize) -> Result<Vec<Vec<usize>>> {
        let (latents, batch) = (self.model.sample_shape().latents_per_sample, self.config.batch as u64);
        let first = (self.step * self.config.accumulate as u64 + pass as u64) * batch;
        for known in [self.order.take(), None] {
            let mut order = known.map_or_else(|| ShuffledOrder::new(set, latents, self.config.seed), Ok)?;
            let samples: Option<Vec<_>> = (first..first + batch).map(|n| order.sample(n, set)).collect();
            if let Some(samples) = samples {
                self.order = Some(order);
                return Ok(samples);
            }
        }
        Err(Error::argument("data", "labels that stay as they are", "others when asked again"))
    }

    /// Latent `index` of every sample, [b, C, h, w].
    fn latents(&self, set: &dyn Dataset, samples: &[Vec<usize>], index: usize) -> Result<Tensor<B>> {
        let mut values = Vec::new();
        samples.iter().try_for_each(|s| set.read(s[index], &mut values))?;
        let [c, h, w] = self.model.sample_shape().latent;
        Tensor::from_f32(self.model.backend(), &[samples.len(), c, h, w], values, self.model.dtype())
    }
}

/// Checks the settings of a run on `backend`.
fn check<B: Backend, M: Trainable<B>>(config: &TrainConfig<M::Objective>, backend: &B) -> Result<()> {
    config.validate()?;
    M::check_objective(&config.objective)?;
    if backend.supports(config.compute) {
        return Ok(());
    }
    Err(Error::config("compute", format!("a type that {} computes in", backend.name()), config.compute))
}

/// Checks the settings, and freezes the parameters that the settings or the model exclude from training.
pub(super) fn prepare<B: Backend, M: Trainable<B>>(
    model: &mut M,
    config: &TrainConfig<M::Objective>,
) -> Result<()> {
    check::<B, M>(config, model.backend())?;
    let names: Vec<String> = model.params().into_iter().map(|(name, _)| name).collect();
    let prefixes = &config.trainable_prefixes;
    if let Some(unknown) =
        prefixes.iter().find(|prefix| !names.iter().any(|name| name.starts_with(&**prefix)))
    {
        return Err(Error::config("trainable_prefixes", "prefixes of parameter names", unknown));
    }
    let groups = param_groups(model);
    for ((name, param), group) in model.params_mut().into_iter().zip(groups) {
        let named = prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(&**prefix));
        param.set_trainable(named && !group.frozen);
    }
    Ok(())
}

/// A step word that differs for every pass of every step: the step counts up from the lowest bit, the pass down from
/// the highest, and they meet only when steps · passes reach 2³².
fn step_word(step: u64, pass: usize) -> u32 {
    (step as u32) ^ (pass as u32).reverse_bits()
}
