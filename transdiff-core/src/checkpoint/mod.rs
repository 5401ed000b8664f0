//! Checkpoint files: named tensors in safetensors and PyTorch files, read as untrusted input, and safetensors files
//! written atomically.

mod allocation_limit;
mod byte_reader;
mod contents;
mod destination;
mod entry;
mod errors;
mod file;
mod format;
mod format_version;
mod json;
mod pytorch;
mod safetensors;
mod sha256;
mod shards;
mod stored_tensor;
mod strided;
#[cfg(test)]
mod tests;
mod write;
#[cfg(test)]
mod writer_tests;

pub use ::safetensors::tensor::Dtype as StoredDType;
pub(crate) use contents::SKIPPED;
pub use destination::Destination;
pub use entry::Entry;
pub use file::{WeightFile, WeightView};
pub use format::Format;
pub use format_version::{FORMAT_KEY, FORMAT_VERSION};
pub use sha256::{sha256, sha256_of};
pub(crate) use shards::is_file_name;
pub use stored_tensor::StoredTensor;
pub use write::{
    Put, TEMPORARY_PREFIX, WriteTensor, write_atomic, write_atomic_cancellable, write_bytes_atomic,
};
