//! Named tensors on disk: safetensors files, read as untrusted input and written so that no crash loses them.

mod header;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Error, HostTensor, Result};

pub use safetensors::tensor::{Dtype as StoredDType, View};
pub use write::write_atomic;

/// The whole of a safetensors file, checked and in host memory.
#[derive(Clone, Debug)]
pub struct TensorFile {
    /// Where it was read from; every error about the contents names it.
    pub path: PathBuf,
    /// Free-form strings from the header: configuration, step, cursor.
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, HostTensor>,
}

/// The free-form strings of a file's header; no tensor is read.
///
/// # Errors
/// As [`TensorFile::read`], but for the values of the tensors.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
    Ok(header::open(path.as_ref())?.1.metadata)
}

impl TensorFile {
    /// Reads every tensor. The file may come from anyone: lengths are checked before anything is allocated.
    ///
    /// F32, F64, BF16 and I32 are kept; F16 becomes f32 (exact), and I64 becomes i32.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot read it, [`Error::Format`] if it is not a whole safetensors file,
    /// [`Error::Tensor`] if a tensor has an inconsistent extent, a type not listed above, an integer outside
    /// of i32 or a value that is not finite.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        read::read(path.as_ref())
    }

    /// Whether the tensors are those of `expected`: names, shapes, floating-point elements.
    /// Tensors that nobody expects are an error only if `strict`.
    ///
    /// # Errors
    /// [`Error::TensorNames`] for missing and extra names, [`Error::Tensor`] for a wrong shape or type.
    pub fn check(&self, expected: &[(String, Vec<usize>)], strict: bool) -> Result<()> {
        self.check_names(expected, strict)?;
        expected.iter().try_for_each(|(name, shape)| {
            let tensor = &self.tensors[name];
            if tensor.shape() == shape && tensor.dtype().is_float() {
                return Ok(());
            }
            let got = format!("{} {:?}", tensor.dtype(), tensor.shape());
            Err(tensor_error(&self.path, name, format!("floats of shape {shape:?}"), got))
        })
    }

    fn check_names(&self, expected: &[(String, Vec<usize>)], strict: bool) -> Result<()> {
        let known: std::collections::BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        let missing: Vec<String> =
            known.iter().filter(|&&n| !self.tensors.contains_key(n)).map(|&n| n.clone()).collect();
        let extra: Vec<String> =
            self.tensors.keys().filter(|n| strict && !known.contains(n)).cloned().collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        Err(Error::TensorNames { path: self.path.clone(), missing, extra })
    }
}

fn tensor_error(path: &Path, tensor: &str, expected: impl Into<String>, got: impl ToString) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        expected: expected.into(),
        got: got.to_string(),
    }
}
