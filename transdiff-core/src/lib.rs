//! Core of TransDiff: the backend traits, and the models, samplers and training on top of them.
//!
//! Paper: "Marrying Autoregressive Transformer and Diffusion with Multi-Reference Autoregression",
//! arXiv 2506.09482.

pub mod autograd;
pub mod backend;
mod cancel;
pub mod checkpoint;
pub mod data;
pub mod diffusion;
pub mod distributed;
mod dtype;
mod error;
mod host;
mod int8;
pub mod layout;
pub mod metering;
pub mod models;
pub mod nn;
mod precision;
pub mod reference;
pub mod rng;
pub mod tensor;
pub mod text;
pub mod train;

pub use backend::Backend;
pub use cancel::CancellationToken;
pub use dtype::DType;
pub use error::{Error, Result};
pub use half::bf16;
pub use host::{HostData, HostTensor, bf16_from_f64, try_with_capacity};
pub use int8::Int8Weight;
pub use layout::Layout;
pub use precision::Precision;
pub use tensor::Tensor;
