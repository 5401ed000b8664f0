//! The model on disk: finding it in a file, and its sizes.

use std::path::Path;

use super::{TransDiff, TransDiffConfig, infer_config};
use crate::checkpoint::{WeightFile, WeightView};
use crate::models::stored::check_agreement;
use crate::models::weight_sets::{self, Signature};
use crate::models::{ImageSpec, LoadHints, Model, WeightSet, metadata_value};
use crate::{Backend, Precision, Result};

/// A model in a file: its weights were chosen and its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub struct StoredTransDiff<'a> {
    config: TransDiffConfig,
    weights: WeightSet,
    tensors: WeightView<'a>,
    images: Option<ImageSpec>,
}

/// Names by which the model's tensors are recognised.
pub(crate) const SIGNATURE: Signature = Signature {
    description: "a TransDiff model",
    anchor: "diffdecoder.net.",
    modules: &[
        "class_emb",
        "fake_latent",
        "mask_token",
        "z_proj",
        "z_proj_ln",
        "encoder_pos_embed_learned",
        "encoder_blocks",
        "encoder_norm",
        "diffusion_pos_embed_learned",
        "diffdecoder",
    ],
};

impl<'a> StoredTransDiff<'a> {
    /// Finds the model in a file of either format.
    ///
    /// The model's tensors are recognised by their names under any key and behind wrappers, such as `module`. The
    /// weights are the EMA weights (`model_ema`, `ema`, …) where there are any, or else the raw weights (`model`,
    /// `state_dict`, …), unless the hints say otherwise. Of several sets, the one with the most tensors is taken. The
    /// sizes come from the metadata, or else from the shapes, compared with `args`. Heads, which no shape tells, come
    /// from the hints, from `args`, or from the published model of the same width and depth.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the file holds no such model, if what it says contradicts itself or
    /// the hints, if it describes images that the model does not make, or if a hint is needed: the number of heads, the key of one of several equal sets, or the raw weights
    /// if the file has EMA weights that are not understood; [`Error::TensorNames`](crate::Error::TensorNames) and
    /// [`Error::Tensor`](crate::Error::Tensor) if a tensor that tells a size is missing or of no possible shape, or if
    /// two tensors have one name without the wrappers; [`Error::Config`](crate::Error::Config) if the sizes do not fit
    /// together.
    pub fn find(file: &'a WeightFile, hints: &LoadHints) -> Result<Self> {
        let (weights, tensors) = choose(file, hints)?;
        let config = if file.metadata().contains_key(TransDiffConfig::METADATA_KEY) {
            let config: TransDiffConfig =
                metadata_value(file.path(), file.metadata(), TransDiffConfig::METADATA_KEY)?;
            if let Some(heads) = hints.heads {
                check_agreement(file.path(), "heads", ("the hint", heads), ("the metadata", config.heads))?;
            }
            config
        } else {
            infer_config::config(&tensors, hints.heads)?
        };
        config.validate()?;
        infer_config::check_depth(&config, &tensors)?;
        let images = ImageSpec::read(file, &config.generator_info())?;
        Ok(Self { config, weights, tensors, images })
    }

    /// The sizes.
    pub fn config(&self) -> &TransDiffConfig {
        &self.config
    }

    /// The chosen set of weights.
    pub fn weights(&self) -> WeightSet {
        self.weights
    }

    /// Tensors of the chosen set, under the names of the model's parameters.
    pub fn tensors(&self) -> &WeightView<'a> {
        &self.tensors
    }

    /// The images that the model makes, if the file describes them.
    pub fn images(&self) -> Option<&ImageSpec> {
        self.images.as_ref()
    }

    /// Reads the weights for computation in `precision`, one tensor after another: memory holds the model, and one tensor more.
    ///
    /// # Errors
    /// [`Error::TensorNames`](crate::Error::TensorNames) and [`Error::Tensor`](crate::Error::Tensor) if a tensor is
    /// missing, extra, of a wrong shape or type, or not finite; [`Error::Io`](crate::Error::Io) if the system cannot
    /// read it; [`Error::Argument`](crate::Error::Argument) if the backend has no products of 8-bit integers, and
    /// `precision` needs them.
    pub fn load<B: Backend>(&self, backend: &B, precision: impl Into<Precision>) -> Result<TransDiff<B>> {
        TransDiff::read(backend, &self.config, &self.tensors, precision)
    }
}

impl<B: Backend> TransDiff<B> {
    /// Configuration of the model in a file; no tensor is read.
    ///
    /// # Errors
    /// As [`WeightFile::open`] and [`StoredTransDiff::find`].
    pub fn read_config(path: impl AsRef<Path>) -> Result<TransDiffConfig> {
        let file = WeightFile::open(path)?;
        Ok(StoredTransDiff::find(&file, &LoadHints::default())?.config().clone())
    }

    /// Loads a model for computation in `precision`, such as [`DType::F32`](crate::DType::F32): a file of [`save`](Model::save), of a training run, or of the published
    /// implementation.
    ///
    /// # Errors
    /// As [`WeightFile::open`] and [`from_file`](Self::from_file).
    pub fn load(backend: &B, path: impl AsRef<Path>, precision: impl Into<Precision>) -> Result<Self> {
        Self::from_file(backend, &WeightFile::open(path)?, precision, &LoadHints::default())
    }

    /// Loads the model that [`StoredTransDiff::find`] finds in `file`.
    ///
    /// # Errors
    /// As [`StoredTransDiff::find`] and [`StoredTransDiff::load`].
    pub fn from_file(
        backend: &B,
        file: &WeightFile,
        precision: impl Into<Precision>,
        hints: &LoadHints,
    ) -> Result<Self> {
        StoredTransDiff::find(file, hints)?.load(backend, precision)
    }
}

/// Tensors of the set that the hints ask for. A file with a configuration and other names holds a single set.
fn choose<'a>(file: &'a WeightFile, hints: &LoadHints) -> Result<(WeightSet, WeightView<'a>)> {
    if let Some(found) = weight_sets::choose(file, &SIGNATURE, hints)? {
        return Ok(found);
    }
    if file.metadata().contains_key(TransDiffConfig::METADATA_KEY) {
        return Ok((WeightSet::Single, file.select("")));
    }
    Err(weight_sets::not_found(file, &[SIGNATURE]))
}

/// Returns `true` if the file holds a model, by the names of its tensors (under `key` if it is given) or by its metadata.
pub(crate) fn holds_model(file: &WeightFile, key: Option<&str>) -> bool {
    weight_sets::holds(file, &SIGNATURE, key) || file.metadata().contains_key(TransDiffConfig::METADATA_KEY)
}
