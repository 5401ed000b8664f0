//! TransDiff: autoregressive transformer and diffusion decoder (arXiv 2506.09482).

mod ar_transformer;
mod config;
mod diffusion_decoder;
mod distillation;
mod field;
mod generator;
mod infer_config;
mod memory;
mod objective;
mod operations;
mod patch;
mod preset;
mod run;
mod session;
mod stored;
#[expect(clippy::module_inception, reason = "the type that the module is about")]
mod transdiff;

pub use ar_transformer::{ArTransformer, EncoderBlock, PrefixCache};
pub use config::{Mode, Size, TransDiffConfig};
pub use diffusion_decoder::{Condition, DecoderBlock, DiffusionDecoder, TimeEmbedding};
pub use distillation::{ConsistencyObjective, Distillation};
pub use objective::{FlowBatch, FlowDraws, FlowObjective, SampleDraws};
pub use patch::{latent_tokens, patchify, unpatchify};
pub use session::Session;
pub use stored::StoredTransDiff;
pub(crate) use stored::{SIGNATURE, holds_model};
pub use transdiff::TransDiff;
