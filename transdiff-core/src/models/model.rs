//! Models: modules with a configuration that files carry.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::autograd::Param;
use crate::checkpoint::{WeightView, write_atomic};
use crate::nn::Module;
use crate::{Backend, DType, Error, Int8Weight, Precision, Result, Tensor};

/// A module with a configuration. Two models with equal configurations have the same parameters.
///
/// A model is a value: clones share memory until one of them is trained. Many threads may use one.
pub trait Model<B: Backend>: Module<B> + Clone {
    /// Every size of the model.
    type Config: Clone + Debug + PartialEq + Serialize + DeserializeOwned;

    /// Metadata key under which files carry the configuration, as JSON.
    const CONFIG_KEY: &'static str;

    /// A model whose parameters have shapes and no memory until they are set. A model without layers for 8-bit integers takes
    /// the type of the tensors from `precision`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together.
    fn placeholder(backend: &B, config: &Self::Config, precision: impl Into<Precision>) -> Result<Self>;

    /// A model whose weights are all 0, to count what it needs.
    ///
    /// # Errors
    /// As [`placeholder`](Self::placeholder); [`Error::OutOfMemory`].
    fn zeros(backend: &B, config: &Self::Config, dtype: DType) -> Result<Self> {
        let mut model = Self::placeholder(backend, config, dtype)?;
        for (_, param) in model.params_mut() {
            let (shape, dtype) = (param.value().shape().to_vec(), param.value().dtype());
            param.set(&Tensor::zeros(backend, &shape, dtype)?)?;
        }
        Ok(model)
    }

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

    /// Reads a model of `config` from `tensors` for computation in `precision`, one tensor after another: memory holds the
    /// model, and one tensor more.
    ///
    /// # Errors
    /// [`Error::TensorNames`](crate::Error::TensorNames) and [`Error::Tensor`](crate::Error::Tensor) if a tensor is
    /// missing, extra, of a wrong shape or type, not finite or beyond the range of the type;
    /// [`Error::Io`](crate::Error::Io) if the system cannot read it; [`Error::Argument`] if the backend has no products of
    /// 8-bit integers, and `precision` needs them.
    fn read(
        backend: &B,
        config: &Self::Config,
        tensors: &WeightView<'_>,
        precision: impl Into<Precision>,
    ) -> Result<Self> {
        let mut model = placeholder::<B, Self>(backend, config, precision.into())?;
        tensors.check(&expected(&model, ""))?;
        load_params(&mut model, tensors)?;
        Ok(model)
    }

    /// The model for computation in another number format: weights are rounded, or quantised to 8-bit integers. Those of a
    /// model in [`Precision::INT8`] are taken in bf16.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Argument`] if the backend has no products of 8-bit integers, and `precision` needs
    /// them, or if a weight to be quantised is not finite.
    fn to_precision(&self, precision: impl Into<Precision>) -> Result<Self> {
        let mut model = placeholder::<B, Self>(self.backend(), self.config(), precision.into())?;
        for ((_, param), (_, source)) in model.params_mut().into_iter().zip(self.params()) {
            param.set_host(source.value().to_host()?)?;
            param.set_trainable(source.is_trainable() && !param.is_quantized());
        }
        Ok(model)
    }

    /// Writes the model as safetensors with its configuration in the metadata, in the types of its parameters, replacing the file at `path` only when the
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

/// A model to be set, in a number format that the backend has.
fn placeholder<B: Backend, M: Model<B>>(backend: &B, config: &M::Config, precision: Precision) -> Result<M> {
    if precision.is_int8() && !backend.supports_int8() {
        let expected = format!("a number format that {} computes in", backend.name());
        return Err(Error::argument("precision", expected, precision));
    }
    M::placeholder(backend, config, precision)
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
        if !param.is_quantized() {
            return param.set_host(tensors.tensor_as(&name, param.value().dtype())?);
        }
        match tensors.int8(&name)? {
            Some(weight) => param.set_int8(&weight),
            None => param.set_host(tensors.tensor_as(&name, Int8Weight::SOURCE)?),
        }
    })
}

/// Names and shapes of a module's parameters, the names behind `prefix`.
pub(crate) fn expected<B: Backend>(module: &dyn Module<B>, prefix: &str) -> Vec<(String, Vec<usize>)> {
    let entry = |(name, p): (String, &Param<B>)| (format!("{prefix}{name}"), p.value().shape().to_vec());
    module.params().into_iter().map(entry).collect()
}
