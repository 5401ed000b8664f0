//! The autoencoder on disk, under the published parameter names.

use std::path::Path;

use super::{Vae, VaeConfig};
use crate::checkpoint::{WeightFile, WeightView};
use crate::models::{Model, json, metadata_value};
use crate::{Backend, DType, Error, Result};

/// Prefixes of the names of the autoencoder's tensors. A file may hold others, such as those of the loss that it was
/// trained with.
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
        let Some(prefix) = names_prefix(file) else {
            return Err(Error::format(
                file.path(),
                "expected a KL-VAE: tensors encoder.conv_in.*, by themselves or under model or state_dict",
            ));
        };
        let tensors = file.select(prefix).filtered(|name| PREFIXES.iter().any(|p| name.starts_with(p)));
        let shapes = tensors.entries().map(|(name, entry)| (name, entry.shape()));
        let config = VaeConfig::from_shapes(file.path(), shapes)?;
        if file.metadata().contains_key(VaeConfig::METADATA_KEY) {
            let said: VaeConfig = metadata_value(file.path(), file.metadata(), VaeConfig::METADATA_KEY)?;
            if said != config {
                let (said, read) = (json(&said), json(&config));
                let message = format!("the metadata says {said}, the shapes say {read}");
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
        Vae::read(backend, &self.config, &self.tensors, dtype)
    }
}

/// Prefix of the names of the autoencoder's tensors in a file, if it holds one.
pub(crate) fn names_prefix(file: &WeightFile) -> Option<&'static str> {
    let holds = |prefix: &&str| file.entries().contains_key(&format!("{prefix}encoder.conv_in.weight"));
    ["", "model.", "state_dict."].into_iter().find(holds)
}

impl<B: Backend> Vae<B> {
    /// Loads the autoencoder in the file at `path`, in the type `dtype`.
    ///
    /// # Errors
    /// Those of [`WeightFile::open`], [`StoredVae::find`] and [`StoredVae::load`].
    pub fn load(backend: &B, path: impl AsRef<Path>, dtype: DType) -> Result<Self> {
        StoredVae::find(&WeightFile::open(path)?)?.load(backend, dtype)
    }
}
