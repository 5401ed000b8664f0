//! `transdiff train`: trains on a folder of pictures or a latent cache.

mod args;

use crate::failure::Result;
use crate::output::{print, print_to_stderr};
pub use args::TrainArgs;

pub fn run(args: &TrainArgs) -> Result<()> {
    let settings = match &args.resume {
        None => args.settings()?,
        Some(directory) => {
            let (settings, changes) = args.resumed_settings(directory)?;
            changes.iter().for_each(|change| print_to_stderr(&format!("changed: {change}")));
            settings
        }
    };
    print(settings.to_document())
}
