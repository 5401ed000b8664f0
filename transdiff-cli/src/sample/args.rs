//! Command-line arguments of `transdiff sample`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use transdiff::models::CodecSource;
use transdiff::pipeline::LoadOptions;
use transdiff::{Device, Error};
use transdiff_terminal::whole;

use crate::load_hints::{LoadHintArgs, PrecisionArg};
use crate::sampling_args::SamplingArgs;

/// Codec given on the command line.
#[derive(Clone, Debug)]
pub enum CodecArg {
    /// No codec, even if the model's file describes one.
    None,
    Source(CodecSource),
}

/// Parser of a codec.
fn codec() -> impl TypedValueParser<Value = CodecArg> {
    PathBufValueParser::new().try_map(|path| match path.to_str() {
        Some("none") => Ok(CodecArg::None),
        _ => CodecSource::try_from(&*path).map(CodecArg::Source).map_err(|error| match error {
            Error::Argument { expected, .. } => format!("expected {expected}"),
            other => other.to_string(),
        }),
    })
}

/// Arguments of `transdiff sample`.
#[derive(Args)]
#[command(
    after_help = "Generates one image per class and seed and writes it to DIR/CLASS-SEED.png, where CLASS is the name of the class if the \
model file records names, and otherwise its number; DIR/grid.png shows all of them. \
The same seed gives the same image in any batch (bitwise on the CPU, up to rounding on a GPU). Published models are \
sampled with the settings of the paper by default, other models without guidance and with both scales at 1.

A model file of transdiff train describes the codec, and a KL-VAE lies beside it. For other models it is given by --codec. \
Without a codec the model generates latents only. --latents saves them. If their number of channels is a square k², \
the PNG files show them in grey: the k² channels of a position become k×k pixels, from -1 (black) to 1 (white).

Ctrl-C stops within one sampling step and keeps the images of completed batches. A second Ctrl-C exits immediately. After \
Ctrl-C or a failure, the same command goes on with the images that are missing.

Examples:
  transdiff sample --model run/model.safetensors --class trouser,3 --count 4
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
    /// Model file: safetensors (or the index of its shards), or a checkpoint of the published implementation
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub model: PathBuf,
    /// Codec that decodes latents into images: the file of a KL-VAE, patch:N for patches of N×N pixels, or none for latents
    /// only [default: the codec that the model file describes, otherwise none]
    #[arg(long, alias = "vae", value_name = "CODEC", value_parser = codec(), help_heading = "Model")]
    pub codec: Option<CodecArg>,
    #[command(flatten, next_help_heading = "Model")]
    pub hints: LoadHintArgs,

    /// Classes, comma-separated: names that the model file records, names of ImageNet classes for models with 1000 classes,
    /// or numbers from 0; required unless --estimate is given
    #[arg(long = "class", visible_alias = "classes", value_name = "CLASS", value_delimiter = ',')]
    #[arg(value_parser = class_item, allow_hyphen_values = true)]
    #[arg(required_unless_present = "estimate", help_heading = "Images")]
    pub classes: Vec<String>,
    /// Seed of the first image of each class
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole(0..=u64::MAX))]
    #[arg(allow_negative_numbers = true, help_heading = "Images")]
    pub seed: u64,
    /// Number of images per class, with consecutive seeds; at least 1, and at most 1000000 images in total
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=u64::MAX))]
    #[arg(allow_negative_numbers = true, help_heading = "Images")]
    pub count: u64,
    /// Seeds, comma-separated; replaces --seed and --count
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["seed", "count"])]
    #[arg(value_parser = whole(0..=u64::MAX), allow_hyphen_values = true, help_heading = "Images")]
    pub seeds: Vec<u64>,
    /// Reference image of an MRAR model: a PNG, JPEG, WebP, BMP, TIFF or GIF file of the model's image size; repeat for
    /// further AR steps
    #[arg(long = "reference", value_name = "FILE", help_heading = "Images")]
    pub references: Vec<PathBuf>,

    #[command(flatten, next_help_heading = "Sampling")]
    pub sampling: SamplingArgs,

    /// Number of images per batch, at least 1; larger batches need more memory
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = whole(1..=usize::MAX))]
    #[arg(allow_negative_numbers = true, help_heading = "Execution")]
    pub batch: usize,
    /// Device: cpu, cuda, cuda:N, or auto for the first usable GPU and otherwise the CPU
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Execution")]
    pub device: Device,
    /// Number format that the model computes in; the codec of a model in int8 computes in bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = "Execution")]
    pub dtype: PrecisionArg,
    /// Number of CPU threads, at least 1 [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    #[arg(help_heading = "Execution")]
    pub threads: Option<usize>,
    /// Print an estimate of memory, work and time and exit
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

/// Item of the list of classes, which are parsed when the model is known.
fn class_item(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected a class, got nothing; remove any extra comma".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

impl SampleArgs {
    /// Options for loading the pipeline. The codec is opened before, so that no other one is loaded.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            precision: self.dtype.into(),
            threads: self.threads,
            hints: (&self.hints).into(),
            latents_only: true,
        }
    }
}
