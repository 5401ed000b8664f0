//! Kinds of checkpoint, recognised by the names in the file.

use super::transdiff::holds_model;
use crate::checkpoint::WeightFile;

/// Key of a training run's settings in a file's metadata.
pub(crate) const TRAIN_KEY: &str = "transdiff.train";

/// Kind of a file of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A TransDiff model, or a checkpoint of the published implementation with one or two of them:
    /// [`StoredTransDiff::find`](crate::models::transdiff::StoredTransDiff::find) finds it.
    Model,
    /// A training run of this library: [`Trainer::resume`](crate::train::Trainer::resume) resumes it, and
    /// [`StoredTransDiff::find`](crate::models::transdiff::StoredTransDiff::find) finds its models.
    TrainingRun,
    /// A KL-VAE of the published layout, its names behind `prefix`.
    Vae {
        /// Argument for [`WeightFile::select`].
        prefix: &'static str,
    },
    /// None of these.
    Unknown,
}

impl FileKind {
    /// Returns the kind of `file`. Only names are looked at: no tensor is read.
    pub fn of(file: &WeightFile) -> Self {
        if file.metadata().contains_key(TRAIN_KEY) {
            return Self::TrainingRun;
        }
        if holds_model(file) {
            return Self::Model;
        }
        let is_vae = |prefix: &&str| file.entries().contains_key(&format!("{prefix}encoder.conv_in.weight"));
        let prefix = ["", "model.", "state_dict."].into_iter().find(is_vae);
        prefix.map_or(Self::Unknown, |prefix| Self::Vae { prefix })
    }
}
