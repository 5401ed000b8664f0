//! Writes a tiny MRAR model with two groups of four features, and its VAE, for tests in C++: `tiny_model MODEL VAE`.

#[path = "../tests/common/files.rs"]
#[allow(dead_code)]
mod files;

use transdiff::models::transdiff::{Mode, TransDiffConfig};

fn main() -> std::io::Result<()> {
    let mut paths = std::env::args_os().skip(1);
    let mut path = |name| paths.next().unwrap_or_else(|| panic!("missing argument: {name} file"));
    let mode = Mode::MultiReference { groups: 2 };
    let config = TransDiffConfig { feature_tokens: 8, mode, ..files::one_step() };
    std::fs::write(path("model"), files::model(&config))?;
    std::fs::write(path("VAE"), files::vae_with(&files::vae(), |_, _| ()))
}
