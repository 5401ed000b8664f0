//! The training loop.

use std::path::Path;

use super::TrainConfig;
use super::checkpoint;
use super::objective::{Batch, FlowDraws, loss};
use super::optimizer::{Optimizer, ema_step};
use crate::autograd::Context;
use crate::autograd::{Gradients, Tape};
use crate::data::{Dataset, ShuffledOrder};
use crate::models::transdiff::{TransDiff, latent_tokens};
use crate::nn::Module;
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, Error, Result, Tensor};

/// What happened in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Number of the step, counted from 0.
    pub step: u64,
    /// The loss, averaged over the step's passes.
    pub loss: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
}

/// A training run: the model, the average of its weights, the optimiser and the step. Everything random is a
/// function of the seed and the step, so nothing else needs to be kept for a run to be resumed bit for bit.
#[derive(Clone, Debug)]
pub struct Trainer<B: Backend> {
    pub(super) model: TransDiff<B>,
    pub(super) ema: TransDiff<B>,
    pub(super) optimizer: Optimizer<B>,
    pub(super) config: TrainConfig,
    pub(super) step: u64,
    order: Option<ShuffledOrder>,
}

impl<B: Backend> Trainer<B> {
    /// A run that starts from the weights of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad setting, a type that the backend does not compute in, or if `train_only` matches no
    /// parameter.
    pub fn new(mut model: TransDiff<B>, config: TrainConfig) -> Result<Self> {
        prepare(&mut model, &config)?;
        let optimizer = Optimizer::new(&model)?;
        Ok(Self { ema: model.clone(), model, optimizer, config, step: 0, order: None })
    }

    /// Goes on with the run whose checkpoint is at `path`.
    ///
    /// # Errors
    /// As [`TransDiff::load`].
    pub fn resume(backend: &B, path: impl AsRef<Path>) -> Result<Self> {
        checkpoint::read(backend, path.as_ref())
    }

    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        checkpoint::write(self, path.as_ref())
    }

    /// The model as trained so far.
    pub fn model(&self) -> &TransDiff<B> {
        &self.model
    }

    /// The average of the weights: what to generate with.
    pub fn ema(&self) -> &TransDiff<B> {
        &self.ema
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer<B> {
        &self.optimizer
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Changes the settings from the next step on.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad setting, another `train_only` (moments exist for what it names), or another
    /// `batch` or `accumulate` (the place in the data is counted in them).
    pub fn reconfigure(&mut self, config: TrainConfig) -> Result<()> {
        check(&config, self.model.backend())?;
        if config.train_only != self.config.train_only {
            let expected = format!("{:?}, as the run began", self.config.train_only);
            return Err(Error::config("train_only", expected, format!("{:?}", config.train_only)));
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
    /// gradients are. The run is as it was before the step then;
    /// only if the device itself fails in the middle of an update is it to be resumed from a checkpoint.
    pub fn step(&mut self, set: &dyn Dataset) -> Result<StepReport> {
        let batches =
            (0..self.config.accumulate).map(|pass| self.batch(set, pass)).collect::<Result<Vec<_>>>()?;
        self.step_on(&batches)
    }

    /// One step on given batches, whose gradients are averaged.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_on(&mut self, batches: &[Batch<B>]) -> Result<StepReport> {
        let (loss, grads) = self.gradients(batches)?;
        let (step, lr) = (self.step, self.config.lr.at(self.step));
        let backend = self.model.backend().clone();
        // Whoever else holds the averages keeps them as they are. There is room for that, or nothing moves.
        for (_, average) in self.ema.params_mut().into_iter().filter(|(_, average)| average.is_trainable()) {
            average.value_mut().make_mut()?;
        }
        let grad_norm = self.optimizer.step(&backend, &mut self.model, &grads, &self.config, step)?;
        ema_step(&backend, &mut self.ema, &self.model, self.config.ema.at(step))?;
        self.step += 1;
        Ok(StepReport { step, loss, grad_norm, lr })
    }

    /// The loss averaged over `batches`, and its gradients; nothing moves.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no batch, [`Error::NonFinite`] if the loss is not finite.
    pub fn gradients(&self, batches: &[Batch<B>]) -> Result<(f64, Gradients<B>)> {
        if batches.is_empty() {
            return Err(Error::argument("batches", "at least one", "none"));
        }
        let share = 1.0 / batches.len() as f64;
        let (mut total, mut grads) = (0.0, Gradients::new());
        for (pass, batch) in batches.iter().enumerate() {
            let tape = Tape::new();
            // Passes of one step drop different units.
            let dropout_step = step_word(self.step, pass);
            let mut ctx = Context::recording(tape.clone())
                .with_compute_dtype(self.config.compute)
                .with_dropout(self.config.dropout, self.config.seed, dropout_step)?;
            if self.config.gradient_checkpointing {
                ctx = ctx.with_gradient_checkpointing();
            }
            let loss = loss(&self.model, &ctx, batch, self.config.diversity)?.affine(share, 0.0)?;
            total += loss.value().item()?;
            if !total.is_finite() {
                return Err(Error::NonFinite { stage: "loss" });
            }
            grads.merge(tape.backward(&loss)?)?;
        }
        Ok((total, grads))
    }

    /// The samples of pass `pass` of the current step, with their draws.
    fn batch(&mut self, set: &dyn Dataset, pass: usize) -> Result<Batch<B>> {
        let model = self.model.config();
        let [c, h, w] = set.latent_shape();
        if [1, c, h, w] != model.latent_shape(1) {
            let expected = format!("latents {:?}", &model.latent_shape(1)[1..]);
            return Err(Error::shape("training data", expected, &[c, h, w]));
        }
        let groups = model.groups();
        let samples = self.samples(set, pass)?;
        let labels: Vec<usize> = samples.iter().map(|s| set.label(s[0])).collect();
        self.model.config().check_labels(&labels)?;
        let latents =
            (0..groups).map(|group| self.latents(set, &samples, group)).collect::<Result<Vec<_>>>()?;
        let draws = latents.iter().enumerate().map(|(g, x)| self.draws(x, g, pass)).collect::<Result<_>>()?;
        let mut stream = self.key(Purpose::LabelDrop, 0, pass).stream();
        let dropped = labels.iter().map(|_| stream.uniform() < self.config.label_drop).collect();
        Ok(Batch { labels, dropped, latents, draws })
    }

    /// The latents of every sample of a pass. An order that was made for another set than this is made anew.
    fn samples(&mut self, set: &dyn Dataset, pass: usize) -> Result<Vec<Vec<usize>>> {
        let (groups, batch) = (self.model.config().groups(), self.config.batch as u64);
        let first = (self.step * self.config.accumulate as u64 + pass as u64) * batch;
        for known in [self.order.take(), None] {
            let mut order = known.map_or_else(|| ShuffledOrder::new(set, groups, self.config.seed), Ok)?;
            let samples: Option<Vec<_>> = (first..first + batch).map(|n| order.sample(n, set)).collect();
            if let Some(samples) = samples {
                self.order = Some(order);
                return Ok(samples);
            }
        }
        Err(Error::argument("data", "labels that stay as they are", "others when asked again"))
    }

    fn latents(&self, set: &dyn Dataset, samples: &[Vec<usize>], group: usize) -> Result<Tensor<B>> {
        let mut values = Vec::new();
        samples.iter().try_for_each(|s| set.read(s[group], &mut values))?;
        let shape = self.model.config().latent_shape(samples.len());
        Tensor::from_f32(self.model.backend(), &shape, values, self.model.dtype())
    }

    /// Timesteps ⌊1000·sigmoid(N(0, 1))⌋ and noise for the copies of one group's latents.
    fn draws(&self, latent: &Tensor<B>, group: usize, pass: usize) -> Result<FlowDraws<B>> {
        let tokens = latent_tokens(latent)?;
        let rows = self.config.batch_mul * self.config.batch;
        let shape = [rows, tokens.dim(1), tokens.dim(2)];
        let mut stream = self.key(Purpose::Timestep, group, pass).stream();
        let timestep = |_| (1000.0 / (1.0 + libm::exp(-stream.normal()))).floor();
        let timesteps = (0..rows).map(timestep).collect();
        let noise = self.key(Purpose::TrainingNoise, group, pass).normals(shape.iter().product());
        Ok(FlowDraws {
            timesteps,
            noise: Tensor::from_f32(self.model.backend(), &shape, noise, self.model.dtype())?,
        })
    }

    fn key(&self, purpose: Purpose, group: usize, pass: usize) -> StreamKey {
        let index = (pass * self.model.config().groups() + group) as u32;
        StreamKey::new(self.config.seed, purpose, index, self.step as u32)
    }
}

/// Checks the settings for a run on `backend`.
fn check<B: Backend>(config: &TrainConfig, backend: &B) -> Result<()> {
    config.validate()?;
    if backend.supports(config.compute) {
        return Ok(());
    }
    Err(Error::config("compute", format!("a type that {} computes in", backend.name()), config.compute))
}

/// Checks the settings and freezes the parameters that they do not name.
pub(super) fn prepare<B: Backend>(model: &mut TransDiff<B>, config: &TrainConfig) -> Result<()> {
    check(config, model.backend())?;
    let prefixes: Vec<&str> = config.train_only.iter().map(String::as_str).collect();
    let names: Vec<String> = model.params().into_iter().map(|(name, _)| name).collect();
    if let Some(unknown) = prefixes.iter().find(|&&prefix| !names.iter().any(|name| name.starts_with(prefix)))
    {
        return Err(Error::config("train_only", "prefixes of parameter names", unknown));
    }
    // What the model brings along of an earlier run is forgotten: an empty list trains everything.
    model.train_only(if prefixes.is_empty() { &[""] } else { &prefixes });
    Ok(())
}

/// A step word that differs for every pass of every step: the step counts up from the lowest bit, the pass down from
/// the highest, and they meet only when steps · passes reach 2³².
fn step_word(step: u64, pass: usize) -> u32 {
    (step as u32) ^ (pass as u32).reverse_bits()
}
