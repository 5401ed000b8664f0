//! The model on disk: finding it in a file, and its sizes.

use std::path::Path;

use super::{TransDiff, TransDiffConfig, infer_config};
use crate::checkpoint::{WeightFile, WeightView};
use crate::models::stored::check_agreement;
use crate::models::{LoadHints, Model, WeightSet, metadata_value};
use crate::{Backend, DType, Error, Result};

/// A model in a file: its weights were chosen and its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub struct StoredTransDiff<'a> {
    config: TransDiffConfig,
    weights: WeightSet,
    tensors: WeightView<'a>,
}

/// Prefixes of the sets of weights, the preferred first: PyTorch's checkpoints, training runs of this library, models.
const SETS: [(&str, WeightSet); 4] = [
    ("model_ema.", WeightSet::Ema),
    ("ema.", WeightSet::Ema),
    ("model.", WeightSet::Raw),
    ("", WeightSet::Single),
];
/// Prefix of every name in checkpoints of distributed training.
const DISTRIBUTED: &str = "module.";

impl<'a> StoredTransDiff<'a> {
    /// Finds the model in a file of either format.
    ///
    /// The weights are those of `model_ema`, or else `model` (PyTorch's checkpoints), `ema` or `model` (training runs of
    /// this library), or the whole file. The sizes come from the metadata, or else from the shapes, compared with `args`.
    /// Heads, which no shape tells, come from the hints, from `args`, or from the published model of the same width and
    /// depth.
    ///
    /// # Errors
    /// [`Error::Format`] if the file holds no such model, if what it says contradicts itself or the hints, or if a
    /// hint is needed; [`Error::TensorNames`] and [`Error::Tensor`] if a tensor that tells a size is missing or of
    /// no possible shape; [`Error::Config`] if the sizes do not fit together.
    pub fn find(file: &'a WeightFile, hints: &LoadHints) -> Result<Self> {
        let (weights, tensors) = choose(file, hints.weights)?;
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
        Ok(Self { config, weights, tensors })
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

    /// Reads the weights in the type `dtype`, one tensor after another: memory holds the model, and one tensor more.
    ///
    /// # Errors
    /// [`Error::TensorNames`] and [`Error::Tensor`] if a tensor is missing, extra, of a wrong shape or type, or not
    /// finite; [`Error::Io`] if the system cannot read it.
    pub fn load<B: Backend>(&self, backend: &B, dtype: DType) -> Result<TransDiff<B>> {
        TransDiff::read(backend, &self.config, &self.tensors, dtype)
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

    /// Loads a model in the type `dtype`: a file of [`save`](Model::save), of a training run, or of the published
    /// implementation.
    ///
    /// # Errors
    /// As [`WeightFile::open`] and [`from_file`](Self::from_file).
    pub fn load(backend: &B, path: impl AsRef<Path>, dtype: DType) -> Result<Self> {
        Self::from_file(backend, &WeightFile::open(path)?, dtype, &LoadHints::default())
    }

    /// Loads the model that [`StoredTransDiff::find`] finds in `file`.
    ///
    /// # Errors
    /// As [`StoredTransDiff::find`] and [`StoredTransDiff::load`].
    pub fn from_file(backend: &B, file: &WeightFile, dtype: DType, hints: &LoadHints) -> Result<Self> {
        StoredTransDiff::find(file, hints)?.load(backend, dtype)
    }
}

fn choose(file: &WeightFile, wanted: Option<WeightSet>) -> Result<(WeightSet, WeightView<'_>)> {
    let sets = || SETS.iter().filter_map(|&(prefix, weights)| Some((weights, model_in(file, prefix)?)));
    let found = match wanted {
        Some(wanted) => sets().find(|(weights, _)| *weights == wanted),
        None => sets().next(),
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let held: Vec<WeightSet> = sets().map(|(weights, _)| weights).collect();
    let message = match wanted {
        Some(wanted) if !held.is_empty() => format!("expected {}, the file has {}", wanted.describe(), held.iter().map(WeightSet::describe).collect::<Vec<_>>().join(" and ")),
        _ if file.metadata().contains_key(TransDiffConfig::METADATA_KEY) => {
            return Ok((WeightSet::Single, file.select("")));
        }
        _ => {
            "expected a TransDiff model: tensors diffdecoder.net.*, by themselves or under model_ema, ema or model"
                .into()
        }
    };
    Err(Error::format(file.path(), message))
}

/// Returns `true` if the file holds a model, by the names of its tensors or by its metadata.
pub(crate) fn holds_model(file: &WeightFile) -> bool {
    let has_tensors = SETS.iter().any(|(prefix, _)| model_in(file, prefix).is_some());
    has_tensors || file.metadata().contains_key(TransDiffConfig::METADATA_KEY)
}

/// Tensors under `prefix`, if they are those of a model.
fn model_in<'a>(file: &'a WeightFile, prefix: &str) -> Option<WeightView<'a>> {
    let view = file.select(prefix);
    let plain = view.select(DISTRIBUTED);
    let is_model =
        |view: &WeightView<'_>| view.entries().any(|(name, _)| name.starts_with("diffdecoder.net."));
    [view, plain].into_iter().find(is_model)
}
