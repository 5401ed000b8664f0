//! The state of a training run on disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::optimizer::Moments;
use super::trainer::prepare;
use super::{TrainConfig, Trainer};
use crate::checkpoint::{Entry, WeightFile, write_atomic};
use crate::models::{
    ImageSpec, TRAIN_KEY, Trainable, expected, json, load_params, metadata_value, named_params,
};
use crate::{Backend, DType, Error, Result, Tensor};

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
    tensors: Vec<(String, Tensor<B>)>,
    /// Metadata of checkpoints.
    metadata: BTreeMap<String, String>,
    /// Keys of the metadata that model files have, too.
    model_keys: Vec<&'static str>,
}

impl<B: Backend> Snapshot<B> {
    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, self.tensors.iter().map(|(name, tensor)| (name, tensor)), &self.metadata)
    }

    /// Writes the model with the EMA weights, replacing the file at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_model(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors =
            self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(EMA)?, tensor)));
        let of_model = |(key, _): &(&String, &String)| self.model_keys.contains(&key.as_str());
        let entries = self.metadata.iter().filter(of_model);
        let metadata = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        write_atomic(path, tensors, &metadata)
    }

    /// Bytes of all tensors, which is about the size of the checkpoint.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, tensor)| (tensor.numel() * tensor.dtype().size()) as u64).sum()
    }
}

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.snapshot().write(path)
    }

    /// State of the run. It takes memory once the run goes on.
    pub fn snapshot(&self) -> Snapshot<B> {
        let mut tensors = named_params(&self.model, RAW);
        tensors.extend(named_params(&self.ema, EMA));
        for ((name, _), moments) in self.model.params().iter().zip(self.optimizer.moments()) {
            let Some(Moments { m, v }) = moments else { continue };
            tensors.push((format!("{FIRST_MOMENT}{name}"), m.clone()));
            tensors.push((format!("{SECOND_MOMENT}{name}"), v.clone()));
        }
        let mut metadata = BTreeMap::from([
            (M::CONFIG_KEY.to_owned(), json(self.model.config())),
            (TRAIN_KEY.to_owned(), json(&self.config)),
            (STEP_KEY.to_owned(), json(&self.step)),
            (SAMPLES_KEY.to_owned(), json(&self.samples)),
        ]);
        if let Some(images) = &self.images {
            metadata.insert(ImageSpec::METADATA_KEY.to_owned(), json(images));
        }
        Snapshot { tensors, metadata, model_keys: vec![M::CONFIG_KEY, ImageSpec::METADATA_KEY] }
    }

    /// Resumes the run whose checkpoint is at `path`.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::TensorNames`] and [`Error::Tensor`] for a file that is no checkpoint of a run of this
    /// model; [`Error::Config`] for settings out of range; [`Error::Io`].
    pub fn resume(backend: &B, path: impl AsRef<Path>) -> Result<Self> {
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
        load_params(&mut trainer.ema, &file.select(EMA))?;
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
