//! Models: modules with a configuration that files carry.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::autograd::Param;
use crate::checkpoint::{WeightView, write_atomic};
use crate::nn::Module;
use crate::{Backend, DType, Result, Tensor};

/// A module with a configuration. Two models with equal configurations have the same parameters.
///
/// A model is a value: clones share memory until one of them is trained. Many threads may use one.
pub trait Model<B: Backend>: Module<B> + Clone {
    /// Every size of the model.
    type Config: Clone + Debug + PartialEq + Serialize + DeserializeOwned;

    /// Metadata key under which files carry the configuration, as JSON.
    const CONFIG_KEY: &'static str;

    /// A model whose parameters have shapes and no memory until they are set.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together.
    fn placeholder(backend: &B, config: &Self::Config, dtype: DType) -> Result<Self>;

    /// Checks `config` against the tensors of a file, before anything of the sizes that it claims is allocated.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together;
    /// [`Error::TensorNames`](crate::Error::TensorNames) if there are too few tensors for them.
    fn check_config(config: &Self::Config, tensors: &WeightView<'_>) -> Result<()>;

    /// The configuration.
    fn config(&self) -> &Self::Config;

    /// Backend that holds the parameters.
    fn backend(&self) -> &B;

    /// Type of the parameters.
    fn dtype(&self) -> DType;

    /// Reads a model of `config` from `tensors` in the type `dtype`, one tensor after another: memory holds the model,
    /// and one tensor more.
    ///
    /// # Errors
    /// [`Error::TensorNames`](crate::Error::TensorNames) and [`Error::Tensor`](crate::Error::Tensor) if a tensor is
    /// missing, extra, of a wrong shape or type, not finite or beyond the range of `dtype`;
    /// [`Error::Io`](crate::Error::Io) if the system cannot read it.
    fn read(backend: &B, config: &Self::Config, tensors: &WeightView<'_>, dtype: DType) -> Result<Self> {
        let mut model = Self::placeholder(backend, config, dtype)?;
        tensors.check(&expected(&model, ""))?;
        load_params(&mut model, tensors)?;
        Ok(model)
    }

    /// Writes the model as safetensors with its configuration in the metadata, replacing the file at `path` only when the
    /// new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path, &BTreeMap::new())
    }

    /// Writes the model as [`save`](Self::save) does, with further entries of the metadata, such as
    /// [`ImageSpec::metadata`](super::ImageSpec::metadata).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    fn save_with(&self, path: impl AsRef<Path>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let tensors = named_params(self, "");
        let mut metadata = metadata.clone();
        metadata.insert(Self::CONFIG_KEY.to_owned(), json(self.config()));
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
    }
}

/// Plain data as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

/// Every parameter of a module, its name behind `prefix`; the tensors share its memory.
pub(crate) fn named_params<B: Backend>(module: &dyn Module<B>, prefix: &str) -> Vec<(String, Tensor<B>)> {
    let entry = |(name, param): (String, &Param<B>)| (format!("{prefix}{name}"), param.value().clone());
    module.params().into_iter().map(entry).collect()
}

/// Sets every parameter of a module from the tensor of its name. They are read one by one.
pub(crate) fn load_params<B: Backend>(module: &mut dyn Module<B>, tensors: &WeightView<'_>) -> Result<()> {
    module.params_mut().into_iter().try_for_each(|(name, param)| {
        let dtype = param.value().dtype();
        param.set_host(tensors.tensor_as(&name, dtype)?)
    })
}

/// Names and shapes of a module's parameters, the names behind `prefix`.
pub(crate) fn expected<B: Backend>(module: &dyn Module<B>, prefix: &str) -> Vec<(String, Vec<usize>)> {
    let entry = |(name, p): (String, &Param<B>)| (format!("{prefix}{name}"), p.value().shape().to_vec());
    module.params().into_iter().map(entry).collect()
}
