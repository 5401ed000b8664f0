//! Tensors: a shared buffer, a layout and a type.
//!
//! A tensor is a value: clones share the buffer, and writes go to a buffer without other owners. All checks of shapes,
//! types and ranges are here; see [`crate::backend`] for what backends may rely on.

mod array;
mod attention;
mod elementwise;
mod embedding;
mod graph_cache;
mod image;
mod linear;
mod loss;
mod memory;
mod norm;
mod optim;
mod optional;
mod residual;

pub use array::Tensor;
pub use attention::{Attention, SavedAttention};
pub(crate) use graph_cache::GraphCache;
pub use image::{Conv, ScaleShift};
pub use norm::{Modulation, NormOutput};
pub use optim::AdamWParam;
pub use optional::Grad;
