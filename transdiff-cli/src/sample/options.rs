//! The command line of `transdiff sample`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use transdiff::Device;
use transdiff::models::transdiff::Preset;
use transdiff::pipeline::LoadOptions;

use crate::source::{Hints, Type};

/// What integrates the velocity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SolverName {
    /// The paper's stochastic sampler, with two scales
    EulerMaruyama,
    /// Deterministic, order 1
    Euler,
    /// Deterministic, order 2; two evaluations of the model a step
    Heun,
}

/// What is generated, and how
#[derive(Args)]
#[command(
    after_help = "Every class gets an image for every seed: DIR/CLASS-SEED.png, and DIR/grid.png shows them together.
The same seed gives the same image, alone or in any batch. What is not given is as the paper has it for a
published model; for others it is the plain sampler without guidance.

Without --vae the model's latents are all there is. They can be kept with --latents; and where their
number of channels is a square k², they are shown in grey, the k² channels of a position as k×k pixels,
from -1 (black) to 1 (white).

Ctrl-C ends within a step; the images of the batches that were complete stay.

Examples:
  transdiff sample --model model.safetensors --vae vae.safetensors --class 207,tabby --count 4
  transdiff sample --model mrar.pth --vae kl16.ckpt --class otter --seeds 3,17 --guidance 1.0,1.2,1.3,1.3
  transdiff sample --model mrar.pth --vae kl16.ckpt --class otter --reference a.png --reference b.png
  transdiff sample --model model.safetensors --class 0 --solver heun --steps 20 --latents latents.safetensors
  transdiff sample --model model.safetensors --vae vae.safetensors --batch 16 --estimate"
)]
pub struct Options {
    /// The model: safetensors, or a checkpoint of the published implementation
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The VAE that makes images of latents
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,
    #[command(flatten)]
    pub hints: Hints,

    /// Classes, separated by commas: numbers, or names for the 1000 of ImageNet
    #[arg(long = "class", visible_alias = "classes", value_name = "CLASS", value_delimiter = ',')]
    #[arg(required_unless_present = "estimate")]
    pub classes: Vec<String>,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Images of each class, with seeds that follow the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// The seeds, separated by commas, in place of --seed and --count
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["seed", "count"])]
    pub seeds: Vec<u64>,
    /// Image to refer to, for MRAR: a PNG file of the model's size. Repeated, for the next step
    #[arg(long = "reference", value_name = "PNG", requires = "vae")]
    pub references: Vec<PathBuf>,

    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = Preset::STEPS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// What integrates the velocity
    #[arg(long, value_name = "NAME", default_value = "euler-maruyama")]
    pub solver: SolverName,
    /// Guidance, at least 1, which is none; with MRAR also one for each step, separated by commas
    #[arg(long, value_name = "W", value_delimiter = ',', allow_negative_numbers = true)]
    pub guidance: Vec<f64>,
    /// The times between which guidance acts; the sampler goes from 1 to 0
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', allow_negative_numbers = true)]
    pub guidance_interval: Vec<f64>,
    /// The paper's s0, the factor of the drift (euler-maruyama)
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub drift_scale: Option<f64>,
    /// The paper's s1, the factor of the injected noise (euler-maruyama)
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub noise_scale: Option<f64>,

    /// Images that are computed at a time: more take more memory, and change nothing else
    #[arg(long, value_name = "N", default_value = "8")]
    pub batch: NonZeroUsize,
    /// cpu, cuda, cuda:N, or auto, the best of this build on this machine
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: Device,
    /// Type that the model computes in
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: Type,
    /// Threads of the CPU [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Folder for the images
    #[arg(long, value_name = "DIR", default_value = "samples")]
    pub out: PathBuf,
    /// Keep the latents as safetensors: `latents` [n, C, h, w]; classes and seeds in the metadata
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
    /// Only say how much memory it would take
    #[arg(long)]
    pub estimate: bool,
}

impl Options {
    /// How the model is loaded.
    pub fn load(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            dtype: self.dtype.into(),
            threads: self.threads,
            hints: self.hints.to_load(),
        }
    }

    /// The seeds that every class gets an image for.
    pub fn seeds(&self) -> Vec<u64> {
        if self.seeds.is_empty() {
            (0..u64::from(self.count)).map_while(|i| self.seed.checked_add(i)).collect()
        } else {
            self.seeds.clone()
        }
    }
}
