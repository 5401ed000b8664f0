//! The error type of the library.

use std::path::{Path, PathBuf};

/// Result of every fallible operation of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error, with the expected and the actual value where there are such.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes of an operation's arguments do not fit together.
    #[error("{op}: expected {expected}, got shape {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Description of the accepted values.
        expected: String,
        /// The actual shape.
        got: Vec<usize>,
    },
    /// The operation does not support the element type of its argument.
    #[error("{op}: expected {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// Description of the accepted values.
        expected: String,
        /// The actual type.
        got: crate::DType,
    },
    /// An argument is outside the range that the function accepts.
    #[error("argument {argument}: expected {expected}, got {got}")]
    Argument {
        /// Name of the argument.
        argument: &'static str,
        /// Description of the accepted values.
        expected: String,
        /// The actual value.
        got: String,
    },
    /// A configuration value is outside the range that the model accepts.
    #[error("config value {field}: expected {expected}, got {got}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// Description of the accepted values.
        expected: String,
        /// The actual value.
        got: String,
    },
    /// The requested device cannot be used.
    #[error("device {device}: {reason}")]
    Unavailable {
        /// Name of the device.
        device: String,
        /// The reason.
        reason: String,
    },
    /// The device ran out of memory.
    #[error("{op}: out of memory{}{}", allocating(*bytes), and_free(*free))]
    OutOfMemory {
        /// The operation.
        op: &'static str,
        /// Size of the failed allocation in bytes; `None` if the driver failed to allocate for itself.
        bytes: Option<usize>,
        /// Free memory of the device at that time in bytes, if the backend knows it.
        free: Option<usize>,
    },
    /// The backend failed in a way that no check of the arguments can foresee.
    #[error("{op}: backend error: {message}")]
    Backend {
        /// The operation.
        op: &'static str,
        /// Message of the backend.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file is not of the expected format.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The problem, and the remedy where there is one.
        message: String,
    },
    /// A tensor in a file (or in a set of named tensors) is not as the model or the file format requires.
    #[error("{}: tensor {tensor}: expected {expected}, got {got}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Description of the accepted tensors.
        expected: String,
        /// Description of the actual tensor.
        got: String,
    },
    /// The tensors in a file are not those of the model.
    #[error("{}: {} tensors missing ({}), {} not part of the model ({})", path.display(), missing.len(), list(missing), extra.len(), list(extra))]
    TensorNames {
        /// The file.
        path: PathBuf,
        /// Names that are in the model but not in the file.
        missing: Vec<String>,
        /// Names that are in the file but not in the model.
        extra: Vec<String>,
    },
    /// A computation produced an infinity or a NaN.
    #[error("{stage}: a value is not finite")]
    NonFinite {
        /// Stage of the computation.
        stage: &'static str,
    },
    /// The gradient of a parameter holds an infinity or a NaN.
    #[error("gradient of {parameter}: a value is not finite")]
    NonFiniteGradient {
        /// Name of the parameter.
        parameter: String,
    },
    /// Another rank of the job, or this one, has failed; all ranks have agreed to go no further.
    #[error("rank {rank}: {message}")]
    Rank {
        /// Number of the rank, from 0.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// The caller cancelled the operation. Every object that took part remains usable.
    #[error("cancelled by the caller")]
    Cancelled,
}

impl Error {
    /// Shorthand for [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.to_vec() }
    }

    /// Shorthand for [`Error::OutOfMemory`] of the host, where the amount of free memory is unknown.
    pub fn out_of_memory(op: &'static str, bytes: usize) -> Self {
        Self::OutOfMemory { op, bytes: Some(bytes), free: None }
    }

    /// Shorthand for [`Error::Argument`].
    pub fn argument(argument: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Argument { argument, expected: expected.into(), got: got.to_string() }
    }

    /// Shorthand for [`Error::Config`].
    pub fn config(field: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Config { field, expected: expected.into(), got: got.to_string() }
    }

    /// Shorthand for [`Error::Format`].
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// For `map_err` on an [`std::io::Result`].
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}

fn allocating(bytes: Option<usize>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" allocating {bytes} bytes"))
}

fn and_free(free: Option<usize>) -> String {
    free.map_or_else(String::new, |free| format!("; {free} bytes are free"))
}

/// The first few of `names`, enough to identify the problem.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut out = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        out.push_str(", …");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn out_of_memory_reports_free_bytes_if_known() {
        let host = Error::out_of_memory("alloc", 64);
        assert_eq!(host.to_string(), "alloc: out of memory allocating 64 bytes");
        let device = Error::OutOfMemory { op: "alloc", bytes: Some(64), free: Some(0) };
        assert_eq!(device.to_string(), "alloc: out of memory allocating 64 bytes; 0 bytes are free");
        let driver = Error::OutOfMemory { op: "capture", bytes: None, free: None };
        assert_eq!(driver.to_string(), "capture: out of memory");
    }
}
