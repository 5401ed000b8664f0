//! The architecture: autoregressive transformer and diffusion decoder.

mod ar_transformer;
mod config;
mod diffusion_decoder;
mod features;
mod field;
mod io;
mod patch;
mod session;
mod transdiff;

pub use ar_transformer::{ArTransformer, EncoderBlock, PrefixCache};
pub use config::{Mode, ModelConfig, Size};
pub use diffusion_decoder::{Condition, DecoderBlock, DiffusionDecoder, TimeEmbedding};
pub use features::{Diversity, Features, cosine_mean};
pub(crate) use field::TIME_SCALE;
pub use io::CONFIG_KEY;
pub(crate) use io::{expected, metadata_value, named_params, take_params};
pub use patch::{patchify, unpatchify};
pub use session::{Generation, Sampling, Session, latent_tokens};
pub use transdiff::TransDiff;
