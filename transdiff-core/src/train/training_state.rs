//! The state of a training run on disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::optimizer::Moments;
use super::trainer::prepare;
use super::{Distribution, TrainConfig, Trainer};
use crate::checkpoint::{Entry, Put, WeightFile, WriteTensor, write_atomic};
use crate::models::{
    ImageSpec, TRAIN_KEY, Trainable, expected, json, load_params, metadata_value, named_params,
};
use crate::{Backend, DType, Error, HostTensor, Result, Tensor};

const STEP_KEY: &str = "transdiff.step";
const SAMPLES_KEY: &str = "transdiff.samples";
const RAW: &str = "model.";
const EMA: &str = "ema.";
const FIRST_MOMENT: &str = "adam_m.";
const SECOND_MOMENT: &str = "adam_v.";

/// State of a run at one moment, which another thread can write while the run goes on: a step copies what a snapshot holds
/// before it changes it.
#[derive(Clone, Debug)]
pub struct Snapshot<B: Backend> {
    tensors: Vec<(String, Stored<B>)>,
    /// False on a rank that has sent its part of the state to rank 0.
    whole: bool,
    /// Metadata of checkpoints.
    metadata: BTreeMap<String, String>,
    /// Keys of the metadata that model files have, too.
    model_keys: Vec<&'static str>,
}

/// A tensor of a snapshot.
#[derive(Clone, Debug)]
enum Stored<B: Backend> {
    Device(Tensor<B>),
    /// One that another rank has sent.
    Host(HostTensor),
}

impl<B: Backend> WriteTensor for Stored<B> {
    fn dtype(&self) -> ::safetensors::Dtype {
        match self {
            Stored::Device(tensor) => WriteTensor::dtype(tensor),
            Stored::Host(tensor) => WriteTensor::dtype(tensor),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Stored::Device(tensor) => tensor.shape(),
            Stored::Host(tensor) => tensor.shape(),
        }
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        match self {
            Stored::Device(tensor) => tensor.write(put),
            Stored::Host(tensor) => tensor.write(put),
        }
    }
}

impl<B: Backend> Snapshot<B> {
    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] on a rank that has only a part of the state.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check_whole()?;
        write_atomic(path, self.tensors.iter().map(|(name, tensor)| (name, tensor)), &self.metadata)
    }

    /// Writes the model with the EMA weights, replacing the file at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] on a rank that has only a part of the state.
    pub fn write_model(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check_whole()?;
        let tensors =
            self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(EMA)?, tensor)));
        let of_model = |(key, _): &(&String, &String)| self.model_keys.contains(&key.as_str());
        let entries = self.metadata.iter().filter(of_model);
        let metadata = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        write_atomic(path, tensors, &metadata)
    }

    /// Bytes of all tensors, which is about the size of the checkpoint.
    pub fn bytes(&self) -> u64 {
        let bytes = |tensor: &Stored<B>| match tensor {
            Stored::Device(tensor) => tensor.numel() * tensor.dtype().size(),
            Stored::Host(tensor) => tensor.data().len() * tensor.dtype().size(),
        };
        self.tensors.iter().map(|(_, tensor)| bytes(tensor) as u64).sum()
    }

    fn check_whole(&self) -> Result<()> {
        match self.whole {
            true => Ok(()),
            false => Err(Error::argument("snapshot", "that of rank 0, which has the whole state", "a part")),
        }
    }
}

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete. With a divided optimiser every rank
    /// calls this, and rank 0 writes.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`snapshot`](Self::snapshot).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let snapshot = self.snapshot()?;
        if snapshot.whole { snapshot.write(path) } else { Ok(()) }
    }

    /// State of the run. It takes memory once the run goes on. With a divided optimiser every rank calls this, and only that of
    /// rank 0, in host memory, is whole.
    ///
    /// # Errors
    /// Those of the ranks and the backend.
    pub fn snapshot(&self) -> Result<Snapshot<B>> {
        let mut tensors = named_params(&self.model, RAW);
        tensors.extend(named_params(&self.ema, EMA));
        for ((name, _), moments) in self.model.params().iter().zip(self.optimizer.moments()) {
            let Some(Moments { m, v }) = moments else { continue };
            tensors.push((format!("{FIRST_MOMENT}{name}"), m.clone()));
            tensors.push((format!("{SECOND_MOMENT}{name}"), v.clone()));
        }
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Stored::Device(tensor))).collect();
        let mut metadata = BTreeMap::from([
            (M::CONFIG_KEY.to_owned(), json(self.model.config())),
            (TRAIN_KEY.to_owned(), json(&self.config)),
            (STEP_KEY.to_owned(), json(&self.step)),
            (SAMPLES_KEY.to_owned(), json(&self.samples)),
        ]);
        if let Some(images) = &self.images {
            metadata.insert(ImageSpec::METADATA_KEY.to_owned(), json(images));
        }
        let model_keys = vec![M::CONFIG_KEY, ImageSpec::METADATA_KEY];
        let mut snapshot = Snapshot { tensors, whole: true, metadata, model_keys };
        self.gather_parts(&mut snapshot)?;
        Ok(snapshot)
    }

    /// Sends to rank 0 the moments and EMA weights that only this rank has.
    fn gather_parts(&self, snapshot: &mut Snapshot<B>) -> Result<()> {
        let Some(ranks) = self.ranks.as_ref().filter(|ranks| ranks.is_sharded()) else { return Ok(()) };
        snapshot.whole = ranks.communicator().rank() == 0;
        let (params, averages) = (self.model.params(), self.ema.params());
        let moments = self.optimizer.moments();
        let moment = |index: usize| moments[index].as_ref().expect("a rank has the moments that it updates");
        let mut gathered = BTreeMap::new();
        for prefix in [EMA, FIRST_MOMENT, SECOND_MOMENT] {
            let own = |index: usize| match prefix {
                EMA => averages[index].1.value().clone(),
                FIRST_MOMENT => moment(index).m.clone(),
                _ => moment(index).v.clone(),
            };
            let keep = |index: usize, value: Tensor<B>| {
                if snapshot.whole && ranks.is_updated_elsewhere(index) {
                    let name = format!("{prefix}{}", params[index].0);
                    gathered.insert(name, Stored::Host(value.to_host()?));
                }
                Ok(())
            };
            ranks.gather(|index| Ok(own(index)), keep)?;
        }
        // Placeholders stand for the EMA weights of other ranks.
        snapshot.tensors.retain(|(name, _)| !gathered.contains_key(name));
        snapshot.tensors.extend(gathered);
        Ok(())
    }

    /// Resumes the run whose checkpoint is at `path`.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::TensorNames`] and [`Error::Tensor`] for a file that is no checkpoint of a run of this
    /// model; [`Error::Config`] for settings out of range; [`Error::Io`].
    pub fn resume(backend: &B, path: impl AsRef<Path>) -> Result<Self> {
        Self::resume_on(backend, path, None)
    }

    /// Resumes the run whose checkpoint is at `path` on the ranks of `distribution`, whose number may be another than before;
    /// see [`with_distribution`](Self::with_distribution). Each rank reads the file.
    ///
    /// # Errors
    /// As [`resume`](Self::resume) and `with_distribution`.
    pub fn resume_distributed(
        backend: &B,
        path: impl AsRef<Path>,
        distribution: Distribution<B>,
    ) -> Result<Self> {
        Self::resume_on(backend, path, Some(distribution))
    }

    fn resume_on(backend: &B, path: impl AsRef<Path>, distribution: Option<Distribution<B>>) -> Result<Self> {
        let path = path.as_ref();
        let file = WeightFile::open(path)?;
        let config: M::Config = metadata_value(path, file.metadata(), M::CONFIG_KEY)?;
        let settings: TrainConfig<M::Objective> = metadata_value(path, file.metadata(), TRAIN_KEY)?;
        let step: u64 = metadata_value(path, file.metadata(), STEP_KEY)?;
        if step > u64::from(u32::MAX) {
            let message = format!("metadata entry {STEP_KEY}: {step} is no number of steps");
            return Err(Error::format(path, message));
        }
        let samples = match file.metadata().contains_key(SAMPLES_KEY) {
            true => metadata_value(path, file.metadata(), SAMPLES_KEY)?,
            // Files of earlier versions: the place in the data followed from the step.
            false => step.saturating_mul(settings.batch as u64).saturating_mul(settings.accumulate as u64),
        };
        let images = match file.metadata().contains_key(ImageSpec::METADATA_KEY) {
            true => Some(metadata_value(path, file.metadata(), ImageSpec::METADATA_KEY)?),
            false => None,
        };
        let weights = file.select(RAW);
        M::check_config(&config, &weights)?;
        let dtype = weights.entries().find_map(|(_, entry)| Entry::decoded(entry)).unwrap_or(DType::F32);
        let mut model = M::placeholder(backend, &config, dtype)?;
        // The settings tell which parameters are frozen, and so have no moments.
        prepare(&mut model, &settings)?;
        // Before anything of the sizes that the file claims is allocated.
        file.select("").check(&names(&model))?;
        load_params(&mut model, &weights)?;
        let mut trainer = Self::new(model, settings)?;
        if let Some(distribution) = distribution {
            // Before the moments and EMA weights of other ranks are read.
            trainer = trainer.with_distribution(distribution)?;
        }
        let averages = file.select(EMA);
        for (index, (name, average)) in trainer.ema.params_mut().into_iter().enumerate() {
            if !trainer.ranks.as_ref().is_some_and(|ranks| ranks.is_updated_elsewhere(index)) {
                let dtype = average.value().dtype();
                average.set_host(averages.tensor_as(&name, dtype)?)?;
            }
        }
        let params: Vec<(String, Tensor<B>)> =
            trainer.model.params().into_iter().map(|(name, p)| (name, p.value().clone())).collect();
        let (first, second) = (file.select(FIRST_MOMENT), file.select(SECOND_MOMENT));
        for ((name, param), moments) in params.iter().zip(trainer.optimizer.moments_mut()) {
            let Some(Moments { m, v }) = moments else { continue };
            for (stored, slot) in [(&first, m), (&second, v)] {
                let host = stored.tensor_as(name, dtype)?;
                *slot = Tensor::from_host(backend, &host)?.ordered_like(param)?;
            }
        }
        (trainer.step, trainer.samples, trainer.images) = (step, samples, images);
        Ok(trainer)
    }
}

/// Names and shapes of everything in a checkpoint of a run of `model`.
fn names<B: Backend, M: Trainable<B>>(model: &M) -> Vec<(String, Vec<usize>)> {
    let mut names = expected(model, RAW);
    names.extend(expected(model, EMA));
    for (name, param) in model.params().iter().filter(|(_, p)| p.is_trainable()) {
        let shape = param.value().shape().to_vec();
        names.push((format!("{FIRST_MOMENT}{name}"), shape.clone()));
        names.push((format!("{SECOND_MOMENT}{name}"), shape));
    }
    names
}
