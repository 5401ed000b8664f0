//! Named tensors on disk: safetensors and PyTorch files, read as untrusted input, and safetensors written so that no
//! crash loses them.

mod budget;
mod entry;
mod file;
mod format;
mod pytorch;
mod safetensors;
mod source;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::Error;

pub use ::safetensors::tensor::{Dtype as StoredDType, View};
pub use entry::Entry;
pub use file::{WeightFile, WeightView};
pub use format::Format;
pub use write::write_atomic;

/// A file's table of contents.
#[derive(Debug, Default)]
struct Contents {
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
    values: serde_json::Map<String, serde_json::Value>,
}

/// For `map_err` on reading `what`, for which memory of `bytes` bytes is asked.
fn read_error(path: &Path, what: String, bytes: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::OutOfMemory => {
            Error::out_of_memory("reading a file", usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        kind => Error::io(path)(io::Error::new(kind, format!("{what}: {error}"))),
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
