//! The architecture: autoregressive transformer and diffusion decoder.

mod ar_transformer;
mod config;
mod diffusion_decoder;
mod features;
mod field;
mod infer;
mod io;
mod patch;
mod repeated;
mod session;
mod source;
mod transdiff;

pub use ar_transformer::{ArTransformer, EncoderBlock, PrefixCache};
pub use config::{Mode, ModelConfig, Size};
pub use diffusion_decoder::{Condition, DecoderBlock, DiffusionDecoder, TimeEmbedding};
pub use features::{Diversity, Features, cosine_mean};
pub(crate) use field::TIME_SCALE;
pub(crate) use infer::check_depth;
pub use io::CONFIG_KEY;
pub(crate) use io::{expected, load_params, metadata_value, named_params};
pub use patch::{patchify, unpatchify};
pub use session::{Generation, Sampling, Session, latent_tokens};
pub(crate) use source::holds_model;
pub use source::{LoadHints, ModelSource, Weights};
pub use transdiff::TransDiff;
