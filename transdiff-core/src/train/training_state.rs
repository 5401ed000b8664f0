//! The state of a training run on disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::optimizer::Moments;
use super::trainer::prepare;
use super::{TrainConfig, Trainer};
use crate::checkpoint::{Entry, WeightFile, write_atomic};
use crate::models::{TRAIN_KEY, Trainable, expected, json, load_params, metadata_value, named_params};
use crate::{Backend, DType, Error, Result, Tensor};

const STEP_KEY: &str = "transdiff.step";
const RAW: &str = "model.";
const EMA: &str = "ema.";
const FIRST_MOMENT: &str = "adam_m.";
const SECOND_MOMENT: &str = "adam_v.";

impl<B: Backend, M: Trainable<B>> Trainer<B, M> {
    /// Writes a checkpoint, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = named_params(&self.model, RAW);
        tensors.extend(named_params(&self.ema, EMA));
        for ((name, _), moments) in self.model.params().iter().zip(self.optimizer.moments()) {
            let Some(Moments { m, v }) = moments else { continue };
            tensors.push((format!("{FIRST_MOMENT}{name}"), m.clone()));
            tensors.push((format!("{SECOND_MOMENT}{name}"), v.clone()));
        }
        let metadata = BTreeMap::from([
            (M::CONFIG_KEY.to_owned(), json(self.model.config())),
            (TRAIN_KEY.to_owned(), json(&self.config)),
            (STEP_KEY.to_owned(), json(&self.step)),
        ]);
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
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
        trainer.step = step;
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
