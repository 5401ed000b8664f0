//! The one error type of the library.

use std::path::{Path, PathBuf};

/// Result of every fallible operation of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes given to an operation do not fit together.
    #[error("{op}: expected {expected}, got shape {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// The element type given to an operation is not one it takes.
    #[error("{op}: expected {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The type that came.
        got: crate::DType,
    },
    /// An argument is outside of what the function takes.
    #[error("argument {argument}: expected {expected}, got {got}")]
    Argument {
        /// The argument's name.
        argument: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// A configuration value is outside of what the model allows.
    #[error("config value {field}: expected {expected}, got {got}")]
    Config {
        /// The field's name.
        field: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// The device that was asked for cannot be used.
    #[error("device {device}: {reason}")]
    Unavailable {
        /// The device's name.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The device ran out of memory.
    #[error("{op}: out of memory{}{}", allocating(*bytes), and_free(*free))]
    OutOfMemory {
        /// The operation.
        op: &'static str,
        /// The size of the allocation that failed, in bytes; none if the device wanted it for itself.
        bytes: Option<usize>,
        /// How much of the device's memory was free then, in bytes, if the backend knows.
        free: Option<usize>,
    },
    /// The backend failed in a way that its caller could not foresee.
    #[error("{op}: backend error: {message}")]
    Backend {
        /// The operation.
        op: &'static str,
        /// The backend's own words.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not of the format that was expected.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A tensor in a file (or a set of named tensors) is not what the model needs.
    #[error("{}: tensor {tensor}: expected {expected}, got {got}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the model needs.
        expected: String,
        /// What came.
        got: String,
    },
    /// The tensors in a file are not those of the model.
    #[error("{}: {} tensors missing ({}), {} not part of the model ({})", path.display(), missing.len(), list(missing), extra.len(), list(extra))]
    TensorNames {
        /// The file.
        path: PathBuf,
        /// Names that the model has and the file lacks.
        missing: Vec<String>,
        /// Names that the file has and the model lacks.
        extra: Vec<String>,
    },
    /// A computation produced an infinity or a NaN.
    #[error("{stage}: a value is not finite")]
    NonFinite {
        /// The stage that produced it.
        stage: &'static str,
    },
    /// The caller asked to stop; everything is as usable as before.
    #[error("cancelled by the caller")]
    Cancelled,
}

impl Error {
    /// Shorthand for [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.to_vec() }
    }

    /// Shorthand for [`Error::OutOfMemory`] of the host, which does not say what is free.
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

/// The first few of `names`, enough to see what is wrong.
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
    fn what_was_free_is_said_where_it_is_known() {
        let host = Error::out_of_memory("alloc", 64);
        assert_eq!(host.to_string(), "alloc: out of memory allocating 64 bytes");
        let device = Error::OutOfMemory { op: "alloc", bytes: Some(64), free: Some(0) };
        assert_eq!(device.to_string(), "alloc: out of memory allocating 64 bytes; 0 bytes are free");
        let own = Error::OutOfMemory { op: "record", bytes: None, free: None };
        assert_eq!(own.to_string(), "record: out of memory");
    }
}
