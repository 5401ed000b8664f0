//! Command-line arguments that select what is loaded from a model file, shared by all commands.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use transdiff::checkpoint::WeightFile;
use transdiff::models::{LoadHints, StoredModel, WeightSet};
use transdiff::{DType, Error, Precision};
use transdiff_core::text::printable;
use transdiff_terminal::whole;

use crate::failure::{Failure, Result};

/// Set of weights in a training checkpoint.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightSetArg {
    /// Exponential moving average over training
    Ema,
    /// Weights after the last training step
    #[value(alias = "model")]
    Raw,
}

/// Data type of latents.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DTypeArg {
    /// 32-bit floating point
    F32,
    /// bfloat16
    Bf16,
}

impl From<DTypeArg> for DType {
    fn from(dtype: DTypeArg) -> Self {
        match dtype {
            DTypeArg::F32 => Self::F32,
            DTypeArg::Bf16 => Self::BF16,
        }
    }
}

/// Number format of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionArg {
    /// 32-bit floating point
    F32,
    /// bfloat16
    Bf16,
    /// 8-bit integers in the layers of the model's blocks but the first of the decoder, bfloat16 elsewhere
    Int8,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => DType::F32.into(),
            PrecisionArg::Bf16 => DType::BF16.into(),
            PrecisionArg::Int8 => Self::INT8,
        }
    }
}

/// Properties of a model that its file may not record.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct LoadHintArgs {
    /// Weights to use if the file has both sets [default: ema if present, otherwise raw]
    #[arg(long, value_name = "SET")]
    pub weights: Option<WeightSetArg>,
    /// Number of attention heads; required only if the file does not record it
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    pub heads: Option<usize>,
    /// Key of the dictionary that holds the weights, such as state_dict.model; required only if several are equally good
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

impl From<&LoadHintArgs> for LoadHints {
    fn from(args: &LoadHintArgs) -> Self {
        let weights = args.weights.map(|set| match set {
            WeightSetArg::Ema => WeightSet::Ema,
            WeightSetArg::Raw => WeightSet::Raw,
        });
        Self { heads: args.heads, weights, key: args.key.clone() }
    }
}

impl LoadHintArgs {
    /// Returns whether any is given.
    pub fn any(&self) -> bool {
        self.weights.is_some() || self.heads.is_some() || self.key.is_some()
    }

    /// Finds the model in `file`. If only the number of heads is missing, the error says which flag to add.
    pub fn find_model<'a>(&self, file: &'a WeightFile) -> Result<StoredModel<'a>> {
        let hints = LoadHints::from(self);
        StoredModel::find(file, &hints).map_err(|error| {
            // A single head divides any width: if the model is found with it, only the number of heads was missing.
            let with_heads = StoredModel::find(file, &LoadHints { heads: Some(1), ..hints.clone() });
            match (error, with_heads) {
                (Error::Config { field: "heads", expected, got }, _) if hints.heads.is_some() => {
                    Failure::Message(format!("--heads: expected {expected}, got {got}"))
                }
                (_, Ok(model)) if hints.heads.is_none() => Failure::Message(format!(
                    "{}: the file does not record the number of attention heads; \
                     add --heads N, where N divides the width {}",
                    file.path().display(),
                    model.info().features.unwrap_or_default().width,
                )),
                (error, _) => error.into(),
            }
        })
    }
}

/// The name of a set of weights, as `--weights` takes it.
pub fn weight_set_name(weights: WeightSet) -> &'static str {
    match weights {
        WeightSet::Ema => "ema",
        WeightSet::Raw => "raw",
        WeightSet::Single => "single",
    }
}

/// The name of a data type in a file, in lower case.
pub fn dtype_name(dtype: impl std::fmt::Display) -> String {
    printable(&dtype.to_string().to_lowercase())
}
