//! Constructors of the errors that readers share.

use std::io;
use std::path::Path;

use crate::Error;

/// For `map_err` on reading `what` into `bytes` bytes of memory.
pub(super) fn read_error(path: &Path, what: String, bytes: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::OutOfMemory => {
            Error::out_of_memory("reading a file", usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        kind => Error::io(path)(io::Error::new(kind, format!("{what}: {error}"))),
    }
}

/// An [`Error::Tensor`].
pub(super) fn tensor_error(
    path: &Path,
    tensor: &str,
    expected: impl Into<String>,
    got: impl ToString,
) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        expected: expected.into(),
        got: got.to_string(),
    }
}
