//! `transdiff inspect`: shows the contents of a checkpoint, a latent cache, or a training run.

mod args;
mod cache;
mod file;
mod run;
mod text;

use transdiff::datasets::cache::{CacheState, HEADER_FILE};
use transdiff_run::{CONFIG_FILE, RunDirectory};

pub use args::InspectArgs;

use crate::failure::Result;

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
