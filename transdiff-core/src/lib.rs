//! Core of TransDiff: the traits that backends implement, and the whole architecture and training mathematics once.
//!
//! Paper: "Marrying Autoregressive Transformer and Diffusion with Multi-Reference Autoregression",
//! arXiv 2506.09482.

pub mod autograd;
pub mod backend;
mod cancel;
pub mod data;
mod dtype;
mod error;
mod host;
pub mod layout;
pub mod model;
pub mod nn;
pub mod reference;
pub mod rng;
pub mod sampler;
pub mod tensor;
pub mod testing;
pub mod text;
pub mod train;
pub mod vae;
pub mod weights;

pub use backend::Backend;
pub use cancel::Cancellation;
pub use dtype::DType;
pub use error::{Error, Result};
pub use half::bf16;
pub use host::{HostData, HostTensor, bf16_from_f64, room};
pub use layout::Layout;
pub use tensor::Tensor;
