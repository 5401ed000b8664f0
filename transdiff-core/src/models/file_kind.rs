//! Kinds of file, recognised by names and metadata.

use super::weight_sets;
use super::{transdiff, vae};
use crate::Error;
use crate::checkpoint::WeightFile;

/// Metadata key of the settings of a training run.
pub(crate) const TRAIN_KEY: &str = "transdiff.train";

/// Kind of a file of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A model, or a checkpoint of the published implementation with one or two sets of its weights:
    /// [`StoredModel::find`](super::StoredModel::find) finds it.
    Model,
    /// A training run of this library: [`Trainer::resume`](crate::train::Trainer::resume) resumes it, and
    /// [`StoredModel::find`](super::StoredModel::find) finds its models.
    TrainingRun,
    /// A codec: [`StoredCodec::find`](super::StoredCodec::find) finds it.
    Codec,
    /// None of these.
    Unknown,
}

impl FileKind {
    /// Returns the kind of `file`. No tensor is read.
    pub fn of(file: &WeightFile) -> Self {
        Self::under(file, None)
    }

    /// Returns the kind of the weights under `key` in `file`, or of the file if no key is given. No tensor is read.
    pub fn under(file: &WeightFile, key: Option<&str>) -> Self {
        if file.metadata().contains_key(TRAIN_KEY) {
            return Self::TrainingRun;
        }
        if transdiff::holds_model(file, key) {
            return Self::Model;
        }
        if vae::holds_vae(file, key) { Self::Codec } else { Self::Unknown }
    }

    /// The error for a file of unknown kind: it says what the file holds instead.
    pub fn unknown_error(file: &WeightFile) -> Error {
        weight_sets::not_found(file, &[transdiff::SIGNATURE, vae::SIGNATURE])
    }
}
