//! What a file of tensors is, by the names in it.

use super::WeightFile;
use crate::models::TRAIN_KEY;
use crate::models::transdiff::holds_model;

/// What a file of tensors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A TransDiff model, or a checkpoint of the published implementation with one or two of them:
    /// [`StoredTransDiff::find`](crate::models::transdiff::StoredTransDiff::find) finds it.
    Model,
    /// A training run of this library: [`Trainer::resume`](crate::train::Trainer::resume) goes on from it, and
    /// [`StoredTransDiff::find`](crate::models::transdiff::StoredTransDiff::find) finds its models.
    TrainingRun,
    /// An image autoencoder of the published layout, its names behind `prefix`.
    Vae {
        /// For [`WeightFile::select`].
        prefix: &'static str,
    },
    /// None of these.
    Unknown,
}

impl FileKind {
    pub(super) fn of(file: &WeightFile) -> Self {
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
