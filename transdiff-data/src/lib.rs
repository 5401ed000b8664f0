//! Training data: folders of pictures, and caches of latents.
//!
//! [`transdiff_core::data::Dataset`] is the interface to training. Decoders of picture formats are crates; what is here
//! selects, crops, stores and finds pictures and latents.

pub mod cache;
mod lock;
pub mod mrar_index;
pub mod npz;
pub mod pictures;

pub use lock::DirectoryLock;
