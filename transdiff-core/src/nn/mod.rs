//! Layers: parameters and their forward passes.

mod attention;
mod init;
mod linear;
mod mlp;
mod module;
mod norm;

pub use attention::{CrossAttention, KeyValue, SelfAttention};
pub use init::Init;
pub use linear::Linear;
pub use mlp::Mlp;
pub use module::Module;
pub(crate) use module::{join as module_join, module};
pub use norm::{LAYER_NORM_EPS, LayerNorm};
