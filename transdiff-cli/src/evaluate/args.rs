//! Command-line arguments of `transdiff evaluate`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use transdiff::Device;
use transdiff::datasets::cache::Part;
use transdiff::models::CodecSource;
use transdiff_terminal::{MAX_COUNT, whole};

use super::preset::Preset;
use crate::failure::Result;
use crate::job::JobArgs;
use crate::load_hints::{LoadHintArgs, PrecisionArg};
use crate::sampling_args::SamplingArgs;

/// Arguments that determine the images of a model.
const GENERATION: [&str; 18] = [
    "total",
    "seed",
    "codec",
    "weights",
    "heads",
    "key",
    "quality",
    "steps",
    "solver",
    "order",
    "times",
    "warp",
    "extrapolation",
    "guidance",
    "guidance_interval",
    "drift_scale",
    "noise_scale",
    "dtype",
];
/// Arguments that determine the measures.
const MEASURES: [&str; 3] = ["inception", "reference", "preset"];
/// Arguments for the images of a model that change none of them.
const WORK: [&str; 2] = ["part", "discard"];

/// Arguments of `transdiff evaluate`.
#[derive(Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["model", "images", "statistics", "merge", "again"]),
    after_help = "Compares the features that a network has of two sets of pictures: the Fréchet Inception distance, and precision and \
recall where the pictures of the reference are there; and computes the Inception Score. The network is the InceptionV3 of \
the Fréchet Inception distance, pt_inception-2015-12-05, whose weights are yours to supply.

With --model, --total images are generated into DIR/images, equally many of each class, all with seeds of their own, so that \
batch size and number of processes make no difference. DIR/manifest.json has the figures, the diversity of the semantic \
features and the seconds per image, and everything needed to repeat them with --again. The same command goes on after an \
interruption.

Pictures of a folder are taken in the order of their paths, from all folders below it, and have one size.

Examples:
  transdiff evaluate --model model.safetensors --codec kl16.ckpt \\
      --inception pt_inception-2015-12-05.pth --reference ref.npz --total 50000 --out EVAL
  transdiff evaluate --images FOLDER --inception FILE --reference OTHER_FOLDER
  transdiff evaluate --statistics FOLDER --inception FILE --out ref.npz
  transdiff evaluate --again EVAL/manifest.json --out EVAL2"
)]
pub struct EvaluateArgs {
    /// Model whose images are measured: safetensors, or a checkpoint of the published implementation
    #[arg(long, value_name = "FILE", help_heading = "Images")]
    #[arg(requires_all = ["total", "reference", "inception", "out"])]
    pub model: Option<PathBuf>,
    /// Folder of pictures to measure
    #[arg(long, value_name = "DIR", requires_all = ["reference", "inception"], help_heading = "Images")]
    #[arg(conflicts_with_all = GENERATION.iter().chain(&WORK))]
    pub images: Option<PathBuf>,
    /// Folder of pictures whose statistics are written to --out, for use as a reference
    #[arg(long, value_name = "DIR", requires_all = ["inception", "out"], help_heading = "Images")]
    #[arg(conflicts_with_all = GENERATION.iter().chain(&WORK).chain(&["reference", "preset"]))]
    pub statistics: Option<PathBuf>,
    /// Directory of an evaluation whose parts are done, to be completed
    #[arg(long, value_name = "DIR", help_heading = "Images")]
    #[arg(conflicts_with_all = GENERATION.iter().chain(&MEASURES).chain(&WORK).chain(&["out"]))]
    pub merge: Option<PathBuf>,
    /// Manifest of an evaluation to be repeated
    #[arg(long, value_name = "FILE", requires = "out", help_heading = "Images")]
    #[arg(conflicts_with_all = GENERATION.iter().chain(&MEASURES))]
    pub again: Option<PathBuf>,

    /// Number of images in all, a multiple of the number of classes
    #[arg(long, value_name = "N", value_parser = whole(1..=MAX_COUNT), allow_negative_numbers = true)]
    #[arg(help_heading = "Generation")]
    pub total: Option<usize>,
    /// Seed of the first image
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole(0..=u64::MAX))]
    #[arg(allow_negative_numbers = true, help_heading = "Generation")]
    pub seed: u64,
    /// Codec that decodes latents into images: the file of a KL-VAE, or patch:N [default: the codec that the model file
    /// describes]
    #[arg(long, value_name = "CODEC", help_heading = "Generation")]
    pub codec: Option<CodecSource>,
    #[command(flatten, next_help_heading = "Generation")]
    pub hints: LoadHintArgs,
    #[command(flatten, next_help_heading = "Generation")]
    pub sampling: SamplingArgs,
    /// Number format that the model computes in; the codec of a model in int8 computes in bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = "Generation")]
    pub dtype: PrecisionArg,
    /// Part I of N, counted from 0 [default: that of the rank, or from the launcher's variables, otherwise all]
    #[arg(long, value_name = "I/N", help_heading = "Generation")]
    pub part: Option<Part>,
    /// Keep no pictures, only what was measured of them
    #[arg(long, help_heading = "Generation")]
    pub discard: bool,

    /// Weights of the InceptionV3 network: a PyTorch file or safetensors
    #[arg(long, value_name = "FILE", help_heading = "Measures")]
    pub inception: Option<PathBuf>,
    /// Pictures to compare with: a folder, or an npz file of statistics (mu, sigma), of pictures (arr_0), or of both
    #[arg(long, value_name = "PATH", help_heading = "Measures")]
    pub reference: Option<PathBuf>,
    /// Way of measuring
    #[arg(long, value_name = "NAME", default_value = "torch-fidelity", help_heading = "Measures")]
    pub preset: Preset,

    /// Number of images that are generated, or that the network sees, at a time, at least 1
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole(1..=1_usize << 16))]
    #[arg(allow_negative_numbers = true, help_heading = "Execution")]
    pub batch: usize,
    /// Device: cpu, cuda, cuda:N, or auto for the first usable GPU and otherwise the CPU
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Execution")]
    pub device: Device,
    /// Number of CPU threads, and of threads that decode pictures, at least 1 [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    #[arg(help_heading = "Execution")]
    pub threads: Option<usize>,

    #[command(flatten)]
    pub job: JobArgs,

    /// Directory of the evaluation, for its manifest and the images that are generated, or file for the statistics
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Replace an existing file of statistics, or the manifest of a folder
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

impl EvaluateArgs {
    pub fn required_inception(&self) -> Result<&Path> {
        required("--inception", self.inception.as_deref())
    }

    pub fn required_reference(&self) -> Result<&Path> {
        required("--reference", self.reference.as_deref())
    }

    pub fn required_out(&self) -> Result<&Path> {
        required("--out", self.out.as_deref())
    }
}

fn required<'a>(flag: &str, value: Option<&'a Path>) -> Result<&'a Path> {
    value.ok_or_else(|| format!("{flag}: required, got nothing").into())
}
