//! The autoencoder on disk, under the published parameter names.

use std::path::Path;

use super::{Vae, VaeConfig};
use crate::checkpoint::{WeightFile, WeightView};
use crate::models::weight_sets::{self, Signature};
use crate::models::{LoadHints, Model, json, metadata_value};
use crate::{Backend, DType, Error, Result};

/// Names by which the autoencoder's tensors are recognised. A file may hold others beside them, such as those of the loss
/// that it was trained with.
pub(crate) const SIGNATURE: Signature = Signature {
    description: "a KL-VAE",
    anchor: "encoder.conv_in.",
    modules: &["encoder", "decoder", "quant_conv", "post_quant_conv"],
};

/// An autoencoder in a file: its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub struct StoredVae<'a> {
    config: VaeConfig,
    tensors: WeightView<'a>,
}

impl<'a> StoredVae<'a> {
    /// Finds the autoencoder in a file of either format: its names stand by themselves or under any key, such as `model`
    /// or `first_stage_model`. Its sizes are read off the shapes. Tensors of other things, such as the loss of its
    /// training, may be in the file.
    ///
    /// # Errors
    /// [`Error::Format`] if the file holds none, several, or EMA weights that are not understood, or says other sizes;
    /// [`Error::TensorNames`] or [`Error::Tensor`] if a tensor that tells a size is missing or of no possible shape;
    /// [`Error::Config`] if the sizes do not fit together.
    pub fn find(file: &'a WeightFile) -> Result<Self> {
        Self::find_with(file, &LoadHints::default())
    }

    /// Like [`find`](Self::find), with hints about the set of weights and its key.
    ///
    /// # Errors
    /// As [`find`](Self::find); [`Error::Format`] if there is no such set.
    pub fn find_with(file: &'a WeightFile, hints: &LoadHints) -> Result<Self> {
        let Some((_, tensors)) = weight_sets::choose(file, &SIGNATURE, hints)? else {
            return Err(weight_sets::not_found(file, &[SIGNATURE]));
        };
        let is_own =
            |name: &str| name.split('.').next().is_some_and(|first| SIGNATURE.modules.contains(&first));
        let tensors = tensors.filtered(is_own);
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

/// Returns whether the file holds an autoencoder, under `key` if it is given.
pub(crate) fn holds_vae(file: &WeightFile, key: Option<&str>) -> bool {
    weight_sets::holds(file, &SIGNATURE, key)
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
