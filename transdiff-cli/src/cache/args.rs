//! Command-line arguments of `transdiff cache`.

use std::path::{Path, PathBuf};

use clap::Args;
use transdiff::Device;
use transdiff::datasets::cache::Part;
use transdiff::datasets::pictures::{Fit, OnBroken};
use transdiff::models::{CodecInfo, CodecSource};
use transdiff_terminal::whole;

use crate::failure::Result;
use crate::load_hints::DTypeArg;

/// Arguments of `transdiff cache`.
#[derive(Args)]
#[command(
    after_help = "The folder has a folder of pictures per class, as torchvision's ImageFolder. Pictures are cut at their centre \
as ADM does, and their mirror images are stored beside them. Training draws from what is stored, so that random crops need \
the pictures themselves. A folder of the published cache, npz files with moments and moments_flip in class folders, is \
imported: --codec is the KL-VAE that made them and is only recorded.

The same command goes on with a cache that was not completed; finished shards are kept. Several processes can make one cache: \
each gets a part, by --part or by the variables that torchrun, Slurm and Open MPI set, and --merge completes it.

Examples:
  transdiff cache --data PICTURES --codec patch:4 --size 32 --out CACHE
  transdiff cache --data FASHION --codec patch:4 --size 32 --channels 1 \\
      --fit pad --no-flip --out CACHE
  transdiff cache --data IMAGENET/train --codec kl16.ckpt --size 256 --part 3/16 --out CACHE
  transdiff cache --merge CACHE
  transdiff cache --data NPZ_FILES --codec kl16.ckpt --size 256 --out CACHE"
)]
pub struct CacheArgs {
    /// Folder of pictures, or of npz files with moments, in class folders
    #[arg(long, value_name = "DIR", required_unless_present = "merge", help_heading = "Pictures")]
    data: Option<PathBuf>,
    /// Codec that makes latents of pictures: patch:N, or the file of a KL-VAE
    #[arg(long, value_name = "CODEC", required_unless_present = "merge", help_heading = "Pictures")]
    codec: Option<CodecSource>,
    /// Side of the square pictures in pixels, 1 to 16384
    #[arg(long, value_name = "PIXELS", value_parser = whole(1..=16384_usize), allow_negative_numbers = true)]
    #[arg(required_unless_present = "merge", help_heading = "Pictures")]
    size: Option<usize>,
    /// Colour channels: 1 for grey, 3 for colour
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole(1..=3_usize))]
    #[arg(allow_negative_numbers = true, help_heading = "Pictures")]
    pub channels: usize,
    /// Cut pictures to a square (crop), or fill them up to one (pad)
    #[arg(long, value_name = "FIT", default_value = "crop", help_heading = "Pictures")]
    pub fit: Fit,
    /// Store no mirror images: training does not flip
    #[arg(long, help_heading = "Pictures")]
    pub no_flip: bool,
    /// Reaction to a picture or npz file that cannot be read: stop, or skip, which leaves it out
    #[arg(long, value_name = "REACTION", default_value = "stop", help_heading = "Pictures")]
    pub on_broken: OnBroken,

    /// Directory of the cache
    #[arg(long, value_name = "DIR", required_unless_present = "merge", help_heading = "Cache")]
    out: Option<PathBuf>,
    /// Data type of the stored latents; bf16 halves the cache
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = "Cache")]
    pub dtype: DTypeArg,
    /// Part I of N, counted from 0: every N-th shard [default: from the launcher's variables, otherwise all]
    #[arg(long, value_name = "I/N", help_heading = "Cache")]
    pub part: Option<Part>,
    /// Complete the cache in this directory, once all parts are done
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    #[arg(conflicts_with_all = ["data", "codec", "size", "out", "part"])]
    pub merge: Option<PathBuf>,

    /// Number of pictures that are encoded at a time, at least 1
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
}

/// Arguments that a cache is made from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub data: &'a Path,
    pub codec: &'a CodecSource,
    pub size: usize,
    pub out: &'a Path,
}

impl CacheArgs {
    /// The arguments that are there unless `--merge` is given.
    pub fn source(&self) -> Source<'_> {
        const GIVEN: &str = "required unless --merge is given";
        Source {
            data: self.data.as_deref().expect(GIVEN),
            codec: self.codec.as_ref().expect(GIVEN),
            size: self.size.expect(GIVEN),
            out: self.out.as_deref().expect(GIVEN),
        }
    }

    /// Shape [C, h, w] of the latents that `codec` makes of the pictures.
    pub fn latent_shape(&self, codec: &CodecInfo) -> Result<[usize; 3]> {
        let (size, factor) = (self.source().size, codec.downsampling);
        if !size.is_multiple_of(factor) {
            let message =
                format!("--size: expected a multiple of {factor}, which the codec requires, got {size}");
            return Err(message.into());
        }
        Ok([codec.code_channels, size / factor, size / factor])
    }

    /// Number of threads that decode pictures.
    pub fn decoding_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).min(64)
    }
}
