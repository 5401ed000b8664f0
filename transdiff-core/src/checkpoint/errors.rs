//! Errors that readers share, and their constructors.

use std::fs::FileType;
use std::io;
use std::path::Path;

use crate::Error;

/// Descriptions of the expected and of the actual value.
pub(super) type Mismatch = (String, String);

/// For `map_err` on reading `what` into `bytes` bytes of memory.
pub(super) fn read_error(path: &Path, what: String, bytes: u64) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::OutOfMemory => {
            Error::out_of_memory("reading a file", usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        kind => Error::io(path)(io::Error::new(kind, format!("{what}: {error}"))),
    }
}

/// Message for a path that is neither missing nor a regular file.
pub(super) fn not_a_regular_file(file_type: FileType) -> String {
    match kind(file_type) {
        "a directory" => "a directory, not a regular file: give the path of a file in it".to_owned(),
        kind => format!("{kind}, not a regular file"),
    }
}

fn kind(file_type: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a named pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
    }
    if file_type.is_dir() { "a directory" } else { "a special file" }
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
