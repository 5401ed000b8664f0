//! The architecture: autoregressive transformer and diffusion decoder.

mod ar_transformer;
mod config;
mod diffusion_decoder;
mod features;
mod patch;
mod transdiff;

pub use ar_transformer::{ArTransformer, EncoderBlock, PrefixCache};
pub use config::{Mode, ModelConfig, Size};
pub use diffusion_decoder::{Condition, DecoderBlock, DiffusionDecoder, TimeEmbedding};
pub use features::{Diversity, Features, cosine_mean};
pub use patch::{patchify, unpatchify};
pub use transdiff::TransDiff;
