//! Command-line arguments of `transdiff inspect`.

use std::path::PathBuf;

use clap::Args;

use crate::load_hints::LoadHintArgs;

/// Arguments of `transdiff inspect`.
#[derive(Args)]
#[command(
    after_help = "Reads safetensors files and PyTorch checkpoints (.pth, .pt, .ckpt). A model in several safetensors files is \
given by its index, such as model.safetensors.index.json. Only the headers are read, and no code from the file is \
executed. A directory is a latent cache, complete or not, or that of a training run, which may be running.

Examples:
  transdiff inspect checkpoint-last.pth
  transdiff inspect lightning.ckpt --key state_dict.model
  transdiff inspect model.safetensors --tensors | less
  transdiff inspect model.safetensors --json | jq .config
  transdiff inspect CACHE
  transdiff inspect RUN"
)]
pub struct InspectArgs {
    /// Checkpoint to read: safetensors (or the index of its shards), .pth, .pt or .ckpt; or the directory of a latent cache
    /// or a training run
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// List every tensor of a file instead of totals per module
    #[arg(long)]
    pub tensors: bool,
    #[command(flatten)]
    pub hints: LoadHintArgs,
}
