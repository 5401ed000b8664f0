//! Command-line arguments of `transdiff sample`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use transdiff::Device;
use transdiff::diffusion::{Preset, SolverKind};
use transdiff::pipeline::LoadOptions;

use crate::load_hints::{DTypeArg, LoadHintArgs};

/// Solver for the sampling ODE or SDE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SolverArg {
    /// Stochastic solver of the paper, with drift and noise scales
    EulerMaruyama,
    /// Deterministic, first order
    Euler,
    /// Deterministic, second order; two model evaluations per step
    Heun,
}

impl From<SolverArg> for SolverKind {
    fn from(solver: SolverArg) -> Self {
        match solver {
            SolverArg::EulerMaruyama => Self::EulerMaruyama,
            SolverArg::Euler => Self::Euler,
            SolverArg::Heun => Self::Heun,
        }
    }
}

/// Arguments of `transdiff sample`.
#[derive(Args)]
#[command(
    after_help = "Generates one image per class and seed and writes it to DIR/CLASS-SEED.png; DIR/grid.png shows all of them. \
The same seed gives the same image in any batch (bitwise on the CPU, up to rounding on a GPU). Published models are \
sampled with the settings of the paper by default, other models without guidance and with both scales at 1.

Without --codec the model generates latents only. --latents saves them. If their number of channels is a square k², \
the PNG files show them in grey: the k² channels of a position become k×k pixels, from -1 (black) to 1 (white).

Ctrl-C stops within one solver step and keeps the images of completed batches. A second Ctrl-C exits immediately.

Examples:
  transdiff sample --model model.safetensors --codec vae.safetensors \\
      --class 207,tabby --count 4
  transdiff sample --model mrar.pth --codec kl16.ckpt --class otter \\
      --seeds 3,17 --guidance 1.0,1.2,1.3,1.3
  transdiff sample --model mrar.pth --codec kl16.ckpt --class otter \\
      --reference a.png --reference b.png
  transdiff sample --model model.safetensors --class 0 \\
      --solver heun --steps 20 --latents latents.safetensors
  transdiff sample --model model.safetensors --codec vae.safetensors \\
      --batch 16 --estimate"
)]
pub struct SampleArgs {
    /// Model file: safetensors, or a checkpoint of the published implementation
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub model: PathBuf,
    /// Codec that decodes latents into images: a KL-VAE [default: none, latents only]
    #[arg(long, alias = "vae", value_name = "FILE", help_heading = "Model")]
    pub codec: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Model")]
    pub hints: LoadHintArgs,

    /// Classes, comma-separated: numbers from 0, or names of the 1000 ImageNet classes; required unless --estimate is
    /// given
    #[arg(long = "class", visible_alias = "classes", value_name = "CLASS", value_delimiter = ',')]
    #[arg(required_unless_present = "estimate", help_heading = "Images")]
    pub classes: Vec<String>,
    /// Seed of the first image of each class
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Images")]
    pub seed: u64,
    /// Number of images per class, with consecutive seeds; at least 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(help_heading = "Images")]
    pub count: u32,
    /// Seeds, comma-separated; replaces --seed and --count
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["seed", "count"])]
    #[arg(help_heading = "Images")]
    pub seeds: Vec<u64>,
    /// Reference image of an MRAR model: a PNG file of the model's image size; repeat for further AR steps
    #[arg(long = "reference", value_name = "PNG", requires = "codec", help_heading = "Images")]
    pub references: Vec<PathBuf>,

    /// Number of solver steps, at least 1
    #[arg(long, value_name = "N", default_value_t = Preset::STEPS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(help_heading = "Sampling")]
    pub steps: u32,
    /// Solver for the integration from noise to image
    #[arg(long, value_name = "NAME", default_value = "euler-maruyama", help_heading = "Sampling")]
    pub solver: SolverArg,
    /// Guidance scale, at least 1; 1 disables guidance. An MRAR model also takes one per AR step, comma-separated
    /// [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "W", value_delimiter = ',', allow_negative_numbers = true)]
    #[arg(help_heading = "Sampling")]
    pub guidance: Vec<f64>,
    /// Times at which guidance is active, 0 <= LOW <= HIGH <= 1; sampling runs from time 1 (noise) to 0
    /// [default: 0,1]
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', allow_negative_numbers = true)]
    #[arg(help_heading = "Sampling")]
    pub guidance_interval: Vec<f64>,
    /// Drift scale s0 of euler-maruyama, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true, help_heading = "Sampling")]
    pub drift_scale: Option<f64>,
    /// Noise scale s1 of euler-maruyama, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true, help_heading = "Sampling")]
    pub noise_scale: Option<f64>,

    /// Number of images per batch, at least 1; larger batches need more memory
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_positive, help_heading = "Execution")]
    pub batch: NonZeroUsize,
    /// Device: cpu, cuda, cuda:N, or auto for the first usable GPU and otherwise the CPU
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Execution")]
    pub device: Device,
    /// Data type that the model and the codec compute in
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = "Execution")]
    pub dtype: DTypeArg,
    /// Number of CPU threads, at least 1 [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Execution")]
    pub threads: Option<usize>,
    /// Print an estimate of the memory needed and exit
    #[arg(long, help_heading = "Execution")]
    pub estimate: bool,

    /// Directory for the PNG files
    #[arg(long, value_name = "DIR", default_value = "samples", help_heading = "Output")]
    pub out: PathBuf,
    /// Also save the latents to a safetensors file: tensor `latents` [n, C, h, w], classes and seeds in the metadata
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub latents: Option<PathBuf>,
    /// Replace existing files
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

fn parse_positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected an integer of at least 1".to_owned())
}

impl SampleArgs {
    /// Options for loading the pipeline.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            dtype: self.dtype.into(),
            threads: self.threads,
            hints: (&self.hints).into(),
        }
    }

    /// Seeds of the images of each class. Fewer than `count` if they would exceed the range of u64.
    pub fn seeds(&self) -> Vec<u64> {
        if self.seeds.is_empty() {
            (0..u64::from(self.count)).map_while(|i| self.seed.checked_add(i)).collect()
        } else {
            self.seeds.clone()
        }
    }
}
