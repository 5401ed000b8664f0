//! The codec in a file, whichever it is.
//!
//! A codec is added as a variant here and a module beside [`vae`](super::vae); nothing above core names one.

use super::model::json;
use super::stored::{StoredConfig, check, whole};
use super::vae::{StoredVae, Vae, VaeConfig};
use super::{Codec, CodecInfo, ElementCount, LoadHints};
use crate::checkpoint::{WeightFile, WeightView};
use crate::reference::Reference;
use crate::{Backend, DType, Result};

/// A codec in a file: its sizes are known, and no tensor has been read.
#[derive(Clone, Debug)]
pub enum StoredCodec<'a> {
    /// The KL-VAE.
    Vae(StoredVae<'a>),
}

impl<'a> StoredCodec<'a> {
    /// Finds the codec in a file by its tensors.
    ///
    /// # Errors
    /// Those of [`StoredVae::find`], the only codec so far.
    pub fn find(file: &'a WeightFile) -> Result<Self> {
        whole(file, StoredVae::find(file).map(Self::Vae))
    }

    /// Finds the codec in a file, with hints about its set of weights and its key.
    ///
    /// # Errors
    /// Those of [`StoredVae::find_with`], the only codec so far.
    pub fn find_with(file: &'a WeightFile, hints: &LoadHints) -> Result<Self> {
        StoredVae::find_with(file, hints).map(Self::Vae)
    }

    /// Description of the codec.
    pub fn info(&self) -> CodecInfo {
        match self {
            Self::Vae(stored) => stored.config().codec_info(),
        }
    }

    /// Its tensors, under the names of the codec's parameters.
    pub fn tensors(&self) -> &WeightView<'a> {
        match self {
            Self::Vae(stored) => stored.tensors(),
        }
    }

    /// The configuration, as files carry it.
    pub fn config(&self) -> StoredConfig {
        match self {
            Self::Vae(stored) => StoredConfig { key: VaeConfig::METADATA_KEY, json: json(stored.config()) },
        }
    }

    /// Checks names and shapes of the tensors; none is read.
    ///
    /// # Errors
    /// [`Error::TensorNames`](crate::Error::TensorNames) and [`Error::Tensor`](crate::Error::Tensor).
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Vae(stored) => check::<Vae<Reference>>(stored.config(), stored.tensors()),
        }
    }

    /// Elements in memory while codes of `code_size` are decoded, `at_once` images at a time.
    pub fn decoding_elements(&self, code_size: [usize; 2], at_once: u64) -> ElementCount {
        match self {
            Self::Vae(stored) => stored.config().decoding_elements(code_size, at_once),
        }
    }

    /// Reads the weights in the type `dtype`, one tensor after another.
    ///
    /// # Errors
    /// Those of [`Model::read`](super::Model::read).
    pub fn load<B: Backend>(&self, backend: &B, dtype: DType) -> Result<Box<dyn Codec<B>>> {
        match self {
            Self::Vae(stored) => Ok(Box::new(stored.load(backend, dtype)?)),
        }
    }
}
