//! The `transdiff` command: inspects and converts checkpoints, generates images, and trains.

mod bitmap;
mod cache;
mod convert;
mod differences;
mod evaluate;
mod failure;
mod format;
mod grid;
mod inspect;
mod interrupt;
mod job;
mod load_hints;
mod output;
mod product_rate;
mod sample;
mod sampling_args;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use failure::Result;

const EXAMPLES: &str = "Examples:
  transdiff inspect checkpoint-last.pth
  transdiff convert checkpoint-last.pth model.safetensors
  transdiff convert kl16.ckpt vae.safetensors
  transdiff sample --model model.safetensors --codec vae.safetensors \\
      --class 'golden retriever' --count 4

See `transdiff COMMAND --help` for the options of a command.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.";

/// Generate images with TransDiff
#[derive(Parser)]
#[command(name = "transdiff", version, after_help = EXAMPLES)]
enum Cli {
    /// Show the contents of a checkpoint
    Inspect(inspect::InspectArgs),
    /// Convert a checkpoint or VAE to safetensors
    Convert(convert::ConvertArgs),
    /// Store the latents of a folder of pictures for training
    Cache(Box<cache::CacheArgs>),
    /// Generate images of given classes
    Sample(Box<sample::SampleArgs>),
    /// Measure the quality of images
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Train a model on pictures
    Train(Box<train::TrainArgs>),
    /// Distil a model into one that needs few steps and no guidance
    Distill(Box<train::DistillArgs>),
    /// Generate shell completions
    Completions(CompletionsArgs),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  source <(transdiff completions bash)
  transdiff completions fish > ~/.config/fish/completions/transdiff.fish
  transdiff completions zsh > ~/.zfunc/_transdiff")]
struct CompletionsArgs {
    /// Shell to generate the script for
    shell: Shell,
}

impl Cli {
    fn run(&self) -> Result<()> {
        match self {
            Self::Inspect(args) => inspect::run(args),
            Self::Convert(args) => convert::run(args),
            Self::Cache(args) => cache::run(args),
            Self::Sample(args) => sample::run(args),
            Self::Evaluate(args) => evaluate::run(args),
            Self::Train(args) => train::run(args),
            Self::Distill(args) => train::distill(args),
            Self::Completions(CompletionsArgs { shell }) => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Self::command(), "transdiff", &mut script);
                output::print(&script)
            }
        }
    }
}

fn main() -> ExitCode {
    transdiff_terminal::fail_writes_beyond_size_limit();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.stderr_line() {
                output::print_to_stderr(&line);
            }
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
