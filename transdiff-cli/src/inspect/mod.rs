//! `transdiff inspect`: shows the contents of a checkpoint, a latent cache, or a training run.

mod cache;
mod file;
mod run;
mod text;

use std::path::PathBuf;

use clap::Args;
use transdiff::datasets::cache::{CacheState, HEADER_FILE};
use transdiff_run::{CONFIG_FILE, RunDirectory};

use crate::failure::Result;
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
    path: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// List every tensor of a file instead of totals per module
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    hints: LoadHintArgs,
}

pub fn run(args: &InspectArgs) -> Result<()> {
    let path = &args.path;
    if !path.is_dir() {
        return file::run(args);
    }
    let name = path.display();
    if args.tensors || args.hints.any() {
        let message =
            format!("{name}: --tensors, --weights, --heads and --key expect a file, got a directory");
        return Err(message.into());
    }
    if let Some(state) = CacheState::read(path)? {
        return cache::print(path, &state, args.json);
    }
    if path.join(CONFIG_FILE).is_file() {
        return run::print(&RunDirectory::view(path)?, args.json);
    }
    let expected = format!("a checkpoint, a latent cache (with {HEADER_FILE}) or a run (with {CONFIG_FILE})");
    Err(format!("{name}: expected {expected}, got a directory with neither file").into())
}
