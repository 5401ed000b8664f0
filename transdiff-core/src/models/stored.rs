//! Parts shared by the stored forms of all models.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::Model;
use super::model::expected;
use crate::checkpoint::{WeightFile, WeightView};
use crate::reference::Reference;
use crate::{DType, Error, Result};

/// One of the sets of weights that a file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSet {
    /// EMA weights: the paper's images are made with them.
    Ema,
    /// Raw weights, as the last training step left them.
    Raw,
    /// The only set of the file: a model by itself.
    Single,
}

impl WeightSet {
    /// Description for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Ema => "EMA weights",
            Self::Raw => "raw weights",
            Self::Single => "a single set of weights",
        }
    }
}

/// Information that a file may lack and the caller may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadHints {
    /// Number of attention heads, which cannot be inferred from the shapes of the tensors.
    pub heads: Option<usize>,
    /// Set of weights to take. By default the EMA weights where there are any.
    pub weights: Option<WeightSet>,
    /// Key of the dictionary that holds the weights, such as `state_dict.model`; empty for the top level. Required only if
    /// several dictionaries hold equally many tensors of the model.
    pub key: Option<String>,
}

/// The JSON value `key` of a file's metadata.
pub(crate) fn metadata_value<T: DeserializeOwned>(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    key: &str,
) -> Result<T> {
    let text = metadata.get(key).ok_or_else(|| Error::format(path, format!("no metadata entry {key}")))?;
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("metadata entry {key}: {e}")))
}

/// Checks that two sources give the same value for one size.
pub(crate) fn check_agreement<T: PartialEq + Display>(
    path: &Path,
    what: &str,
    (one, a): (&str, T),
    (other, b): (&str, T),
) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::format(path, format!("{what}: {one} says {a}, {other} says {b}")))
}

/// Configuration of a model in a file's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfig {
    /// Metadata key.
    pub key: &'static str,
    /// The configuration as JSON.
    pub json: String,
}

/// The result of finding something in `file`; where nothing is found in one of several shards, an error that says so.
pub(super) fn whole<T>(file: &WeightFile, found: Result<T>) -> Result<T> {
    match found {
        Err(Error::Format { .. } | Error::TensorNames { .. }) => file.check_complete().and(found),
        found => found,
    }
}

/// Checks names and shapes of the tensors of a model of `config`; none is read.
pub(super) fn check<M: Model<Reference>>(config: &M::Config, tensors: &WeightView<'_>) -> Result<()> {
    tensors.check(&expected(&M::placeholder(&Reference, config, DType::F32)?, ""))
}
