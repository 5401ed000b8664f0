//! Checkpoint files: named tensors in safetensors and PyTorch files, read as untrusted input, and safetensors files
//! written atomically.

mod allocation_limit;
mod byte_reader;
mod contents;
mod entry;
mod errors;
mod file;
mod format;
mod pytorch;
mod safetensors;
#[cfg(test)]
mod tests;
mod write;

pub use ::safetensors::tensor::{Dtype as StoredDType, View};
pub(crate) use contents::SKIPPED;
pub use entry::Entry;
pub use file::{WeightFile, WeightView};
pub use format::Format;
pub use write::write_atomic;
