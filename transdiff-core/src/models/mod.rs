//! The models, one module each, and what recognises the files that hold them.

pub mod transdiff;
pub mod vae;
