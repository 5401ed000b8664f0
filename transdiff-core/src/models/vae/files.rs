//! The autoencoder on disk, under the published parameter names.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Vae, VaeConfig};
use crate::checkpoint::{WeightFile, WeightView, write_atomic};
use crate::models::file_kind::FileKind;
use crate::models::transdiff::{expected, load_params, metadata_value, named_params};
use crate::{Backend, DType, Error, Result};

/// Key of the configuration in a file's metadata.
pub const VAE_CONFIG_KEY: &str = "transdiff.vae";

/// What the names of the autoencoder's tensors begin with; others in a file are not its (a published one may have
/// those of the loss that it was trained with).
const PREFIXES: [&str; 4] = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];

/// An autoencoder in a file: its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub struct StoredVae<'a> {
    config: VaeConfig,
    tensors: WeightView<'a>,
}

impl<'a> StoredVae<'a> {
    /// Finds the autoencoder in a file of either format: its names stand by themselves, or under `model` or `state_dict`.
    /// Its sizes are read off the shapes. Tensors of other things, such as the loss of its training, may be in the file.
    ///
    /// # Errors
    /// [`Error::Format`] if the file holds none or says other sizes; [`Error::TensorNames`] or [`Error::Tensor`] if a tensor that tells a size
    /// is missing or of no possible shape; [`Error::Config`] if the sizes do not fit together.
    pub fn find(file: &'a WeightFile) -> Result<Self> {
        let FileKind::Vae { prefix } = FileKind::of(file) else {
            return Err(Error::format(file.path(), "no autoencoder: no tensors encoder.conv_in.*"));
        };
        let tensors = file.select(prefix).filtered(|name| PREFIXES.iter().any(|p| name.starts_with(p)));
        let shapes = tensors.entries().map(|(name, entry)| (name, entry.shape()));
        let config = VaeConfig::from_shapes(file.path(), shapes)?;
        if file.metadata().contains_key(VAE_CONFIG_KEY) {
            let said: VaeConfig = metadata_value(file.path(), file.metadata(), VAE_CONFIG_KEY)?;
            if said != config {
                let message = format!("the metadata says {said:?}, the shapes say {config:?}");
                return Err(Error::format(file.path(), message));
            }
        }
        Ok(Self { config, tensors })
    }

    /// The sizes.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Its tensors, under the names of the autoencoder's parameters.
    pub fn tensors(&self) -> &WeightView<'a> {
        &self.tensors
    }

    /// Reads the weights in the type `dtype`, one tensor after another.
    ///
    /// # Errors
    /// [`Error::TensorNames`] and [`Error::Tensor`] if a tensor is missing, extra, of a wrong shape or type, or not
    /// finite; [`Error::Io`] if the system cannot read it.
    pub fn load<B: Backend>(&self, backend: &B, dtype: DType) -> Result<Vae<B>> {
        let mut vae = Vae::placeholder(backend, &self.config, dtype)?;
        self.tensors.check(&expected(&vae, ""))?;
        load_params(&mut vae, &self.tensors)?;
        Ok(vae)
    }
}

impl<B: Backend> Vae<B> {
    /// Loads the autoencoder in the file at `path`, in the type `dtype`.
    ///
    /// # Errors
    /// Those of [`WeightFile::open`], [`StoredVae::find`] and [`StoredVae::load`].
    pub fn load(backend: &B, path: impl AsRef<Path>, dtype: DType) -> Result<Self> {
        StoredVae::find(&WeightFile::open(path)?)?.load(backend, dtype)
    }

    /// Writes a safetensors file, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let config = serde_json::to_string(self.config()).expect("a configuration is plain data");
        let tensors = named_params(self, "");
        let metadata = BTreeMap::from([(VAE_CONFIG_KEY.to_owned(), config)]);
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
    }
}
