//! The `transdiff` command: looks into model files, converts them, and generates images.

mod classes;
mod convert;
mod failure;
mod inspect;
mod picture;
mod sample;
mod source;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use failure::Result;

const EXAMPLES: &str = "Examples:
  transdiff inspect checkpoint-last.pth
  transdiff convert checkpoint-last.pth model.safetensors
  transdiff convert kl16.ckpt vae.safetensors
  transdiff sample --model model.safetensors --vae vae.safetensors --class 'golden retriever' --count 4

`transdiff COMMAND --help` has more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// Image generation with TransDiff
#[derive(Parser)]
#[command(name = "transdiff", version, after_help = EXAMPLES)]
enum Cli {
    /// Shows what a file of tensors holds
    Inspect(inspect::Options),
    /// Makes a safetensors file of a model or a VAE in any file that can be read
    Convert(convert::Options),
    /// Generates images
    Sample(Box<sample::Options>),
    /// Prints what makes a shell complete this command
    Completions(Completions),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  source <(transdiff completions bash)
  transdiff completions fish > ~/.config/fish/completions/transdiff.fish
  transdiff completions zsh > ~/.zfunc/_transdiff")]
struct Completions {
    /// The shell
    shell: Shell,
}

impl Cli {
    fn run(&self) -> Result<()> {
        match self {
            Self::Inspect(options) => inspect::run(options),
            Self::Convert(options) => convert::run(options),
            Self::Sample(options) => sample::run(options),
            Self::Completions(Completions { shell }) => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Self::command(), "transdiff", &mut script);
                text::print(&script)
            }
        }
    }
}

fn main() -> ExitCode {
    Cli::parse().run().map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
