//! Models on disk: read from files of either format, and written as safetensors with the published parameter names
//! and the configuration in the metadata.

use std::collections::BTreeMap;
use std::path::Path;

use super::{LoadHints, StoredTransDiff, TransDiff, TransDiffConfig};
use crate::checkpoint::{WeightFile, WeightView, write_atomic};
use crate::nn::Module;
use crate::{Backend, DType, Error, Result, Tensor};

/// Key of the configuration in a file's metadata.
pub const CONFIG_KEY: &str = "transdiff.config";

/// Every parameter of a module under `prefix`; the tensors share its memory.
pub(crate) fn named_params<B: Backend>(module: &dyn Module<B>, prefix: &str) -> Vec<(String, Tensor<B>)> {
    let entry = |(name, param): (String, &crate::autograd::Param<B>)| {
        (format!("{prefix}{name}"), param.value().clone())
    };
    module.params().into_iter().map(entry).collect()
}

/// Sets every parameter of a module from the tensor of its name. They are read one by one.
pub(crate) fn load_params<B: Backend>(module: &mut dyn Module<B>, tensors: &WeightView<'_>) -> Result<()> {
    module.params_mut().into_iter().try_for_each(|(name, param)| param.set_host(tensors.tensor(&name)?))
}

/// Names and shapes of a module's parameters under `prefix`.
pub(crate) fn expected<B: Backend>(module: &dyn Module<B>, prefix: &str) -> Vec<(String, Vec<usize>)> {
    let entry = |(name, p): (String, &crate::autograd::Param<B>)| {
        (format!("{prefix}{name}"), p.value().shape().to_vec())
    };
    module.params().into_iter().map(entry).collect()
}

/// The JSON value `key` of a file's metadata.
pub(crate) fn metadata_value<T: serde::de::DeserializeOwned>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    key: &str,
) -> Result<T> {
    let text = metadata.get(key).ok_or_else(|| Error::format(path, format!("no metadata entry {key}")))?;
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("metadata entry {key}: {e}")))
}

impl<B: Backend> TransDiff<B> {
    /// The configuration of the model in a file; no tensor is read.
    ///
    /// # Errors
    /// As [`WeightFile::open`] and [`StoredTransDiff::find`].
    pub fn read_config(path: impl AsRef<Path>) -> Result<TransDiffConfig> {
        let file = WeightFile::open(path)?;
        Ok(StoredTransDiff::find(&file, &LoadHints::default())?.config().clone())
    }

    /// Loads a model in the type `dtype`: what [`save`](Self::save) wrote, a training run's file, or a checkpoint of
    /// the published implementation.
    ///
    /// # Errors
    /// As [`WeightFile::open`] and [`from_file`](Self::from_file).
    pub fn load(backend: &B, path: impl AsRef<Path>, dtype: DType) -> Result<Self> {
        Self::from_file(backend, &WeightFile::open(path)?, dtype, &LoadHints::default())
    }

    /// Loads the model that [`StoredTransDiff::find`] finds in `file`.
    ///
    /// # Errors
    /// As [`StoredTransDiff::find`] and [`StoredTransDiff::load`].
    pub fn from_file(backend: &B, file: &WeightFile, dtype: DType, hints: &LoadHints) -> Result<Self> {
        StoredTransDiff::find(file, hints)?.load(backend, dtype)
    }

    /// Writes the model, replacing the file at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let config = serde_json::to_string(self.config()).expect("a configuration is plain data");
        let tensors = named_params(self, "");
        let metadata = BTreeMap::from([(CONFIG_KEY.to_owned(), config)]);
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
    }

    /// A model of the sizes `config` that starts from the weights of this one: every tensor whose name and shape
    /// agree is taken over, the others start as in [`new`](Self::new) with `seed`. A mask token of one row is
    /// repeated where several are needed (1-step to multi-reference, paper §3.5.2). Also returns the names of the
    /// tensors that were not taken over whole.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn transferred(&self, config: &TransDiffConfig, seed: u64) -> Result<(Self, Vec<String>)> {
        let source: BTreeMap<String, Tensor<B>> =
            self.params().into_iter().map(|(name, p)| (name, p.value().clone())).collect();
        let mut model = Self::new(self.backend(), config, self.dtype(), seed)?;
        let mut new = Vec::new();
        for (name, param) in model.params_mut() {
            match source.get(&name) {
                Some(old) if old.shape() == param.value().shape() => param.set(old)?,
                Some(old)
                    if name == "mask_token" && old.dim(1) == 1 && old.dim(2) == param.value().dim(2) =>
                {
                    let repeated = old.broadcast_to(param.value().shape())?;
                    param.set(&repeated)?;
                    new.push(name);
                }
                _ => new.push(name),
            }
        }
        Ok((model, new))
    }
}
