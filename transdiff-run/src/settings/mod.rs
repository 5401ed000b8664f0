//! Settings of a training run: every key with its type, range and description.

mod keys;
mod kind;
mod layers;
mod resume;
mod text;

use std::fmt;

pub use keys::{
    Changes, Compute, DataSettings, Decay, DistillSettings, Fit, GradientType, InitWeights, KEYS, Key,
    LearningRate, LearningRateRule, ModelSettings, OnBroken, OnNonFinite, RunConfig, Shuffle, TrainSettings,
    Validation,
};
pub use kind::Kind;
pub use layers::Layers;
pub use resume::Change;
pub use text::markdown_table;
pub(crate) use text::required;
pub use toml::Value;

/// Error in a setting, with the place that it comes from: a file, an argument, or a preset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct SettingError {
    origin: String,
    message: String,
}

impl SettingError {
    /// An error in what `origin` gives.
    pub fn new(origin: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { origin: origin.to_string(), message: message.into() }
    }
}

/// Result of reading settings.
pub type Result<T> = std::result::Result<T, SettingError>;
