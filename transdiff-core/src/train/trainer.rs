//! The training loop.

use std::cell::RefCell;
use std::sync::Arc;

use super::TrainConfig;
use super::optimizer::{Optimizer, param_groups};
use super::ranks::{Distribution, Ranks};
use crate::autograd::{Context, Gradients};
use crate::data::{DataLoader, Dataset, LoaderOptions, Sample, Stride};
use crate::distributed::agree;
use crate::models::transdiff::TransDiff;
use crate::models::{Codec, ImageSpec, SampleKey, Samples, Trainable, check_labels};
use crate::rng::Purpose;
use crate::{Backend, CancellationToken, DType, Error, Result, Tensor};

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

/// A training run: the model, the EMA of its weights, the optimiser, and the numbers of steps and samples done. Everything
/// random in a sample is a function of the seed and the sample's number, so a run that is resumed goes on bitwise
/// identically.
#[derive(Clone, Debug)]
pub struct Trainer<B: Backend, M: Trainable<B> = TransDiff<B>> {
    pub(super) model: M,
    pub(super) ema: M,
    pub(super) optimizer: Optimizer<B>,
    pub(super) config: TrainConfig<M::Objective>,
    pub(super) step: u64,
    pub(super) samples: u64,
    pub(super) images: Option<ImageSpec>,
    codec: Option<Arc<dyn Codec<B>>>,
    /// `None` in a run of a single process.
    pub(super) ranks: Option<Arc<Ranks<B>>>,
}

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// A run that starts from the weights of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid setting, a type that the backend does not compute in, or if `trainable_prefixes` matches no
    /// parameter.
    pub fn new(model: M, config: TrainConfig<M::Objective>) -> Result<Self> {
        let ema = model.clone();
        Self::with_ema(model, ema, config)
    }

    /// A run that starts from the weights of `model`, and from `ema` as their EMA.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if the two models have different configurations.
    pub fn with_ema(mut model: M, mut ema: M, config: TrainConfig<M::Objective>) -> Result<Self> {
        if model.config() != ema.config() {
            return Err(Error::argument("ema", "a model of the same configuration", "another one"));
        }
        prepare(&mut model, &config)?;
        prepare(&mut ema, &config)?;
        let optimizer = Optimizer::new(&model)?;
        let (images, codec, ranks) = (None, None, None);
        Ok(Self { model, ema, optimizer, config, step: 0, samples: 0, images, codec, ranks })
    }

    /// The same run, divided among ranks: of the samples of a step, `batch` · `accumulate` for each rank, each computes its own.
    /// Everything that [`step`](Self::step) and [`evaluate`](Self::evaluate) return is then the same on all ranks, and so are
    /// the weights. On the CPU they are bitwise those of any other power of two of ranks that has as many samples per step and
    /// the same `batch`.
    ///
    /// From here on `step`, `step_on`, `evaluate` and `gradients`, and with a divided optimiser `snapshot`, `save` and `whole_ema`,
    /// are collective: every rank calls the same ones in the same order. The state is that of a run that every rank has begun
    /// or resumed alike.
    ///
    /// # Errors
    /// [`Error::Config`] for a gradient type that is no float type.
    pub fn with_distribution(mut self, distribution: Distribution<B>) -> Result<Self> {
        if distribution.communicator().size() == 1 {
            return Ok(Self { ranks: None, ..self });
        }
        if let Some(dtype) = distribution.gradient_dtype.filter(|dtype| !dtype.is_float()) {
            return Err(Error::config("gradient_dtype", "a float type", dtype));
        }
        let ranks = Ranks::new(&self.model, distribution)?;
        self.optimizer.keep_part(|index| !ranks.is_updated_elsewhere(index));
        for (index, (_, average)) in self.ema.params_mut().into_iter().enumerate() {
            if ranks.is_updated_elsewhere(index) {
                let (shape, dtype) = (average.value().shape().to_vec(), average.value().dtype());
                let zero = Tensor::zeros(self.model.backend(), &vec![1; shape.len()], dtype)?;
                *average.value_mut() = zero.broadcast_to(&shape)?;
            }
        }
        Ok(Self { ranks: Some(Arc::new(ranks)), ..self })
    }

    /// The same run on images, which `codec` encodes: the items of its datasets are images [c, H, W] in [-1, 1].
    #[must_use]
    pub fn with_codec(self, codec: Arc<dyn Codec<B>>) -> Self {
        Self { codec: Some(codec), ..self }
    }

    /// The same run, whose files record `images`.
    #[must_use]
    pub fn with_images(self, images: ImageSpec) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Images that the model makes, as the run's files record them.
    pub fn images(&self) -> Option<&ImageSpec> {
        self.images.as_ref()
    }

    /// The model with the raw weights.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The model with the EMA weights, to generate with. With a divided optimiser it has only this rank's part;
    /// [`whole_ema`](Self::whole_ema) has all.
    pub fn ema(&self) -> &M {
        &self.ema
    }

    /// The model with the EMA weights of all ranks. With a divided optimiser it takes memory for the weights.
    ///
    /// # Errors
    /// Those of the ranks and the backend.
    pub fn whole_ema(&self) -> Result<M> {
        let mut ema = self.ema.clone();
        if let Some(ranks) = self.ranks.as_ref().filter(|ranks| ranks.is_sharded()) {
            let own = self.ema.params();
            let mut params = ema.params_mut();
            ranks.gather(
                |index| Ok(own[index].1.value().clone()),
                |index, value| params[index].1.set(&value),
            )?;
        }
        Ok(ema)
    }

    /// Seconds that steps have waited for other ranks: for the slowest, and for sums that the backward pass does not hide.
    pub fn seconds_waited(&self) -> f64 {
        self.ranks.as_ref().map_or(0.0, |ranks| ranks.waited().as_secs_f64())
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer<B> {
        &self.optimizer
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig<M::Objective> {
        &self.config
    }

    /// Changes the settings from the next step on. Loaders of another seed, or with draws of another objective, have to be
    /// made anew.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid setting, or another `trainable_prefixes`: moments exist for the parameters that it names.
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
        self.config = config;
        if let Some(ranks) = &self.ranks {
            ranks.forget_order();
        }
        Ok(())
    }

    /// Number of steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Number of samples that steps have taken or skipped: the place in the data.
    pub fn samples_done(&self) -> u64 {
        self.samples
    }

    /// Skips the samples before `number`, which no step will take.
    ///
    /// # Errors
    /// [`Error::Argument`] if they were taken already.
    pub fn skip_to(&mut self, number: u64) -> Result<()> {
        if number < self.samples {
            return Err(Error::argument("number", format!("at least {}", self.samples), number));
        }
        self.samples = number;
        Ok(())
    }

    /// Loader of the samples of `set` for this run.
    ///
    /// # Errors
    /// [`Error::Shape`] if the items are not of the shape of the model's latents, or of the codec's images;
    /// [`Error::Argument`] for a label that is no class; those of [`DataLoader::new`].
    pub fn loader(&self, set: Arc<dyn Dataset>, options: LoaderOptions) -> Result<DataLoader<M::Draws>> {
        let shape = self.model.sample_shape();
        let expected = self.item_shape()?;
        if set.item_shape() != expected {
            let expected = format!("items of shape {expected:?}");
            return Err(Error::shape("training data", expected, &set.item_shape()));
        }
        (0..set.len()).try_for_each(|index| check_labels(&[set.label(index)], shape.classes))?;
        let (seed, objective) = (self.config.seed, self.config.objective.clone());
        let draw = move |number| M::draw(&shape, &objective, SampleKey { seed, number });
        let others = self.ranks().1 - 1;
        let own = self.samples_per_rank();
        let options =
            LoaderOptions { stride: Some(Stride { read: own, skipped: own * others as u64 }), ..options };
        DataLoader::new(set, shape.latents_per_sample, seed, draw, options)
    }

    /// Shape of the items that the run trains on.
    fn item_shape(&self) -> Result<[usize; 3]> {
        let latent = self.model.sample_shape().latent;
        let Some(codec) = &self.codec else { return Ok(latent) };
        let (info, [c, h, w]) = (codec.info(), latent);
        if info.code_channels != c {
            let expected = format!("{c} channels, as the model's latents have");
            return Err(Error::argument("codec", expected, info.code_channels));
        }
        Ok([info.image_channels, h * info.downsampling, w * info.downsampling])
    }

    /// One step on the next samples.
    ///
    /// # Errors
    /// Those of reading the data; [`Error::NonFinite`] and [`Error::NonFiniteGradient`] if the loss or the gradients are not
    /// finite; [`Error::Argument`] for a loader of another seed. The run is then as it was before the step. Only if the
    /// device itself fails in the middle of an update does it have to be resumed from a checkpoint.
    pub fn step(&mut self, data: &mut DataLoader<M::Draws>) -> Result<StepReport> {
        if data.seed() != self.config.seed {
            let expected = format!("a loader of the run's seed {}", self.config.seed);
            return Err(Error::argument("data", expected, data.seed()));
        }
        let ((rank, ranks), own) = (self.ranks(), self.samples_per_rank());
        let (batch, first) = (self.config.batch, self.samples + rank as u64 * own);
        let (loss, grads) = self.accumulate(self.config.accumulate, first, |pass| {
            self.batch(data, first + (pass * batch) as u64, batch)
        })?;
        self.update(loss, &grads, own * ranks as u64)
    }

    /// Number of this rank, and number of ranks.
    pub(super) fn ranks(&self) -> (usize, usize) {
        let communicator = self.ranks.as_ref().map(|ranks| ranks.communicator());
        communicator.map_or((0, 1), |communicator| (communicator.rank(), communicator.size()))
    }

    /// Samples of a step that each rank computes.
    fn samples_per_rank(&self) -> u64 {
        self.config.accumulate as u64 * self.config.batch as u64
    }

    /// One step on given batches, which take the place of the next samples: equally many on each rank.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_on(&mut self, batches: &[M::Batch]) -> Result<StepReport> {
        let (loss, grads) = self.gradients(batches)?;
        let own: u64 = batches.iter().map(|batch| M::batch_len(batch) as u64).sum();
        self.update(loss, &grads, own * self.ranks().1 as u64)
    }

    /// Moves the weights by gradients, which took `samples` samples.
    pub(super) fn update(&mut self, loss: f64, grads: &Gradients<B>, samples: u64) -> Result<StepReport> {
        let (step, lr) = (self.step, self.config.lr.at(self.step));
        let backend = self.model.backend().clone();
        // Other holders of the EMA weights keep them as they are. If there is no memory for that, nothing has moved yet.
        for ((_, average), moments) in self.ema.params_mut().into_iter().zip(self.optimizer.moments()) {
            if moments.is_some() {
                average.value_mut().make_mut()?;
            }
        }
        let ranks = self.ranks.as_deref();
        let grad_norm = self.optimizer.step(&mut self.model, grads, &self.config, step, ranks)?;
        if let Some(ranks) = ranks.filter(|ranks| ranks.is_sharded()) {
            let params = RefCell::new(self.model.params_mut());
            ranks.gather(
                |index| Ok(params.borrow()[index].1.value().clone()),
                |index, value| match ranks.is_updated_elsewhere(index) {
                    true => params.borrow_mut()[index].1.assign(&value),
                    false => Ok(()),
                },
            )?;
        }
        self.optimizer.ema_step(&backend, &mut self.ema, &self.model, self.config.ema.at(step))?;
        self.step += 1;
        self.samples += samples;
        Ok(StepReport { step, loss, grad_norm, lr })
    }

    /// The loss averaged over the `batches` of all ranks, and its gradients, combined as the settings say; nothing moves. Gradients
    /// are of the type that the passes compute in, sums of several of its accumulator's. With a
    /// divided optimiser, the gradients are those of the parameters that this rank updates.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no batch, [`Error::NonFinite`] if the loss is not finite.
    pub fn gradients(&self, batches: &[M::Batch]) -> Result<(f64, Gradients<B>)> {
        if batches.is_empty() {
            return Err(Error::argument("batches", "at least one", "none"));
        }
        let own: u64 = batches.iter().map(|batch| M::batch_len(batch) as u64).sum();
        let first = self.samples + self.ranks().0 as u64 * own;
        self.accumulate(batches.len(), first, |pass| Ok(batches[pass].clone()))
    }

    /// Mean loss of the first `count` samples of `data` with the raw weights, without dropout. The draws are the same every
    /// time. Ranks divide the batches.
    ///
    /// # Errors
    /// Those of reading the data and of the backend.
    pub fn evaluate(&self, data: &mut DataLoader<M::Draws>, count: usize) -> Result<f64> {
        let (rank, ranks) = self.ranks();
        let mut part = |first: usize| {
            let size = self.config.batch.min(count - first);
            let batch = self.batch(data, first as u64, size)?;
            let ctx = Context::inference().with_compute_dtype(self.config.compute);
            let loss = self.model.loss(&ctx, &batch, &self.config.objective)?;
            Ok(loss.value().item()? * size as f64 / count as f64)
        };
        let own = (0..count).step_by(self.config.batch).skip(rank).step_by(ranks);
        let losses: Result<Vec<f64>> = own.map(&mut part).collect();
        let Some(ranks) = &self.ranks else { return Ok(losses?.iter().sum()) };
        let bits = losses.map(|losses| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>());
        let all: Vec<Vec<u64>> = ranks.waiting(|| agree(ranks.communicator(), bits))?;
        // In the order of the batches.
        let most = all.first().map_or(0, Vec::len);
        let ordered = (0..most).flat_map(|round| all.iter().filter_map(move |own| own.get(round)));
        Ok(ordered.map(|&bits| f64::from_bits(bits)).sum())
    }

    /// The batch of the samples `first..first + size`.
    fn batch(&self, data: &mut DataLoader<M::Draws>, first: u64, size: usize) -> Result<M::Batch> {
        let samples = data.samples(first, size)?;
        let labels = samples.iter().map(|sample| sample.label).collect();
        let per_sample = self.model.sample_shape().latents_per_sample;
        let latents =
            (0..per_sample).map(|item| self.latents(&samples, first, item)).collect::<Result<_>>()?;
        self.model
            .batch(Samples { labels, latents }, samples.into_iter().map(|sample| sample.draws).collect())
    }

    /// Latents [b, C, h, w] of item `item` of every sample, encoded if they are images.
    fn latents(&self, samples: &[Sample<M::Draws>], first: u64, item: usize) -> Result<Tensor<B>> {
        let [c, h, w] = self.item_shape()?;
        let shape = [samples.len(), c, h, w];
        let mut values = Vec::with_capacity(shape.iter().product());
        samples.iter().for_each(|sample| values.extend_from_slice(&sample.items[item]));
        let (backend, dtype) = (self.model.backend(), self.model.dtype());
        let Some(codec) = &self.codec else { return Tensor::from_f32(backend, &shape, values, dtype) };
        let seed = |number: u64| {
            let key = SampleKey { seed: self.config.seed, number: number as u32 };
            let [low, high, ..] = key.stream(Purpose::Posterior, item).block(0);
            u64::from(high) << 32 | u64::from(low)
        };
        let seeds: Vec<u64> = (first..).take(samples.len()).map(seed).collect();
        let images = Tensor::from_f32(backend, &shape, values, DType::F32)?;
        codec.encode_images(&images, Some(&seeds), &CancellationToken::new())?.cast(dtype)
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
    if let Some((name, _)) = model.params().into_iter().find(|(_, param)| param.is_quantized()) {
        let expected = "a model without 8-bit integers, which generates only";
        return Err(Error::config("model", expected, format!("{name} in int8")));
    }
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
    if !model.params().iter().any(|(_, param)| param.is_trainable()) {
        let expected = "a prefix of parameters that the model trains";
        return Err(Error::config("trainable_prefixes", expected, format!("{prefixes:?}")));
    }
    Ok(())
}
