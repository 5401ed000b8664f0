//! The models, one module each, and what recognises the files that hold them.

mod file_kind;
pub mod transdiff;
pub mod vae;

pub use file_kind::FileKind;
pub(crate) use file_kind::TRAIN_KEY;
