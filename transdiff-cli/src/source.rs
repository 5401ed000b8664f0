//! What the commands are told about a model that its file may not say.

use clap::{Args, ValueEnum};
use transdiff::DType;
use transdiff::checkpoint::WeightFile;
use transdiff::models::transdiff::{LoadHints, StoredTransDiff, WeightSet};
use transdiff_core::text::printable;

use crate::failure::{Failure, Result};

/// Which of the weights of a training run are meant.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Which {
    /// Averaged over training
    Ema,
    /// As the last step of training left them
    Model,
}

/// An element type.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Type {
    /// Single precision
    F32,
    /// bfloat16
    Bf16,
}

impl From<Type> for DType {
    fn from(dtype: Type) -> Self {
        match dtype {
            Type::F32 => Self::F32,
            Type::Bf16 => Self::BF16,
        }
    }
}

/// Flags for what a model's file may not say.
#[derive(Args, Clone, Copy, Debug)]
pub struct Hints {
    /// Weights to take of a file that has both [default: ema where there are any]
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Attention heads, where the file does not tell them
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
}

impl Hints {
    /// For the library.
    pub fn to_load(self) -> LoadHints {
        let weights = self.weights.map(|which| match which {
            Which::Ema => WeightSet::Ema,
            Which::Model => WeightSet::Raw,
        });
        LoadHints { heads: self.heads, weights }
    }

    /// The model in a file; what the user can add, the error asks for.
    pub fn find(self, file: &WeightFile) -> Result<StoredTransDiff<'_>> {
        let hints = self.to_load();
        StoredTransDiff::find(file, &hints).map_err(|error| {
            // One head divides any width: if that makes a model of it, heads were what was missing.
            let with_heads = StoredTransDiff::find(file, &LoadHints { heads: Some(1), ..hints });
            match with_heads {
                Ok(source) if hints.heads.is_none() => Failure::Message(format!(
                    "{}: the number of attention heads is not in the file: give --heads N, a divisor of the width {}",
                    file.path().display(),
                    source.config().width,
                )),
                _ => error.into(),
            }
        })
    }
}

/// The name of a set of weights.
pub fn name(weights: WeightSet) -> &'static str {
    match weights {
        WeightSet::Ema => "ema",
        WeightSet::Raw => "model",
        WeightSet::Single => "sole",
    }
}

/// The name of an element type in a file, as this command writes them.
pub fn type_name(dtype: impl std::fmt::Display) -> String {
    printable(&dtype.to_string().to_lowercase())
}
