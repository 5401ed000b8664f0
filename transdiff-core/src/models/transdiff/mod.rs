//! The architecture: autoregressive transformer and diffusion decoder.

mod ar_transformer;
mod config;
mod diffusion_decoder;
mod features;
mod field;
mod files;
mod infer_config;
mod patch;
mod preset;
mod session;
mod source;
mod transdiff;

pub use ar_transformer::{ArTransformer, EncoderBlock, PrefixCache};
pub use config::{Mode, Size, TransDiffConfig};
pub use diffusion_decoder::{Condition, DecoderBlock, DiffusionDecoder, TimeEmbedding};
pub use features::{Diversity, Features, cosine_mean};
pub(crate) use field::TIME_SCALE;
pub use files::CONFIG_KEY;
pub(crate) use files::{expected, load_params, metadata_value, named_params};
pub(crate) use infer_config::check_depth;
pub use patch::{patchify, unpatchify};
pub use preset::Preset;
pub use session::{Generation, Sampling, Session, latent_tokens};
pub(crate) use source::holds_model;
pub use source::{LoadHints, StoredTransDiff, WeightSet};
pub use transdiff::TransDiff;
