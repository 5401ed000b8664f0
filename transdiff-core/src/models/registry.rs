//! The registry: finds the model in a file, whichever it is.
//!
//! A model is added as a variant here and a module beside [`transdiff`](super::transdiff); nothing above core names one.

use super::model::json;
use super::stored::{StoredConfig, check, whole};
use super::transdiff::{Session, StoredTransDiff, TransDiff, TransDiffConfig};
use super::{ClassNames, ElementCount, Generator, GeneratorInfo, ImageSpec, LoadHints, WeightSet};
use crate::checkpoint::{WeightFile, WeightView};
use crate::diffusion::Sampling;
use crate::reference::Reference;
use crate::{Backend, Precision, Result};

/// A generator in a file: its weights were chosen and its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub enum StoredModel<'a> {
    /// TransDiff.
    TransDiff(StoredTransDiff<'a>),
}

impl<'a> StoredModel<'a> {
    /// Finds the model in a file by its metadata or its tensors.
    ///
    /// # Errors
    /// Those of [`StoredTransDiff::find`], the only model so far.
    pub fn find(file: &'a WeightFile, hints: &LoadHints) -> Result<Self> {
        whole(file, StoredTransDiff::find(file, hints).map(Self::TransDiff))
    }

    /// Description of the generator.
    pub fn info(&self) -> GeneratorInfo {
        match self {
            Self::TransDiff(stored) => stored.config().generator_info(),
        }
    }

    /// Settings with which its results were published, if they were.
    pub fn published_preset(&self) -> Option<crate::diffusion::Preset> {
        match self {
            Self::TransDiff(stored) => stored.config().preset(),
        }
    }

    /// The chosen set of weights.
    pub fn weights(&self) -> WeightSet {
        match self {
            Self::TransDiff(stored) => stored.weights(),
        }
    }

    /// Tensors of the chosen set, under the names of the model's parameters.
    pub fn tensors(&self) -> &WeightView<'a> {
        match self {
            Self::TransDiff(stored) => stored.tensors(),
        }
    }

    /// The configuration, as files carry it.
    pub fn config(&self) -> StoredConfig {
        match self {
            Self::TransDiff(stored) => {
                StoredConfig { key: TransDiffConfig::METADATA_KEY, json: json(stored.config()) }
            }
        }
    }

    /// The images that the model makes, if the file describes them. They go with the model.
    pub fn images(&self) -> Option<&ImageSpec> {
        match self {
            Self::TransDiff(stored) => stored.images(),
        }
    }

    /// Names of the classes.
    ///
    /// # Errors
    /// None for a file in which this was found.
    pub fn class_names(&self) -> Result<ClassNames> {
        ClassNames::new(self.info().classes, self.images().map_or(&[], |images| &images.classes))
    }

    /// Checks names and shapes of the tensors; none is read.
    ///
    /// # Errors
    /// [`Error::TensorNames`](crate::Error::TensorNames) and [`Error::Tensor`](crate::Error::Tensor).
    pub fn check(&self) -> Result<()> {
        match self {
            Self::TransDiff(stored) => check::<TransDiff<Reference>>(stored.config(), stored.tensors()),
        }
    }

    /// Function that returns true for the names of weights that [`Precision::INT8`] has as 8-bit integers.
    pub fn quantized_names(&self) -> fn(&str) -> bool {
        match self {
            Self::TransDiff(_) => TransDiffConfig::is_quantized,
        }
    }

    /// Elements in memory while `images` images are generated.
    pub fn generation_elements(&self) -> ElementCount {
        match self {
            Self::TransDiff(stored) => stored.config().generation_elements(),
        }
    }

    /// Floating-point operations of the matrix products and attentions of an image with the first `given` references given.
    ///
    /// # Errors
    /// Those of [`TransDiffConfig::generation_flops`].
    pub fn generation_flops(&self, sampling: &Sampling, given: usize) -> Result<u64> {
        match self {
            Self::TransDiff(stored) => stored.config().generation_flops(sampling, given),
        }
    }

    /// Reads the weights for computation in `precision`, one tensor after another.
    ///
    /// # Errors
    /// Those of [`Model::read`](super::Model::read).
    pub fn load<B: Backend>(
        &self,
        backend: &B,
        precision: impl Into<Precision>,
    ) -> Result<Box<dyn Generator<B>>> {
        match self {
            Self::TransDiff(stored) => Ok(Box::new(Session::new(&stored.load(backend, precision)?))),
        }
    }
}
