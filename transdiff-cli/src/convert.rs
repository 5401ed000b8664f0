//! `transdiff convert`: converts a checkpoint or VAE to safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use transdiff::checkpoint::{WeightFile, WeightView, write_atomic_cancellable};
use transdiff::models::{FileKind, ImageSpec, StoredCodec, StoredConfig, WeightSet};
use transdiff::{Error, Precision};

use crate::failure::{Failure, Result};
use crate::interrupt::cancellation_token;
use crate::load_hints::{LoadHintArgs, PrecisionArg};
use crate::{format, output};

/// Arguments of `transdiff convert`.
#[derive(Args)]
#[command(
    after_help = "The input is a checkpoint of the published implementation (.pth), its VAE (.ckpt), a training run of \
this library, or a model or VAE in safetensors format, in one file or in several with an index \
(model.safetensors.index.json); its type is detected from its contents. A training run is \
converted to its EMA weights unless --weights raw is given, as in the paper. The configuration is written to the \
metadata, with the description of codec, images and classes if IN has one, so that loading the new file needs no flags. \
A codec's file that it names has to lie beside OUT.

--dtype int8 writes the weights of the model's blocks as 8-bit integers, each with a tensor of its name and _scale, which has \
one scale per output, and everything else in bf16; a VAE is written in bf16. Such a file can be loaded in any format.

OUT takes its name when it is complete: a failed or interrupted conversion leaves an existing file as it was. If OUT is a \
symbolic link, the file that it leads to is written. A replaced file keeps its permissions.

Examples:
  transdiff convert checkpoint-last.pth model.safetensors
  transdiff convert checkpoint-last.pth small.safetensors --dtype bf16
  transdiff convert checkpoint-last.pth smaller.safetensors --dtype int8
  transdiff convert weights.pth model.safetensors --heads 12
  transdiff convert kl16.ckpt vae.safetensors
  transdiff convert lightning.ckpt model.safetensors --key state_dict.model"
)]
pub struct ConvertArgs {
    /// Checkpoint or VAE to read: safetensors (or the index of its shards), .pth, .pt or .ckpt
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Safetensors file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    hints: LoadHintArgs,
    /// Number format of the weights in OUT [default: as in IN]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<PrecisionArg>,
    /// Replace OUT if it exists, or create the file that it links to
    #[arg(long)]
    force: bool,
}

/// Model or codec found in the input file, with the metadata to write beside its tensors.
struct LoadTarget<'a> {
    /// Description for the user: `model (EMA weights)`.
    description: &'static str,
    tensors: WeightView<'a>,
    metadata: BTreeMap<String, String>,
    /// Returns true for weights that int8 has as 8-bit integers.
    is_quantized: fn(&str) -> bool,
}

pub fn run(args: &ConvertArgs) -> Result<()> {
    output::check_destination(&args.output, args.force)?;
    let file = WeightFile::open(&args.input)?;
    let target = find(&file, &args.hints)?;
    write(&args.output, &target, args.dtype.map(Precision::from))?;
    let size = std::fs::metadata(&args.output).map_err(Error::io(&args.output))?.len();
    output::print(format!(
        "{}: {}, {} tensors, {}\n",
        args.output.display(),
        target.description,
        target.tensors.entries().count(),
        format::bytes(size)
    ))
}

fn find<'a>(file: &'a WeightFile, hints: &LoadHintArgs) -> Result<LoadTarget<'a>> {
    match FileKind::under(file, hints.key.as_deref()) {
        FileKind::Model | FileKind::TrainingRun => model(file, hints),
        FileKind::Codec => codec(file, hints),
        // A key that holds nothing is an error of its own.
        FileKind::Unknown if hints.key.is_some() => model(file, hints),
        FileKind::Unknown => {
            file.check_complete()?;
            Err(FileKind::unknown_error(file).into())
        }
    }
}

fn model<'a>(file: &'a WeightFile, hints: &LoadHintArgs) -> Result<LoadTarget<'a>> {
    let model = hints.find_model(file)?;
    model.check()?;
    let description = match model.weights() {
        WeightSet::Ema => "model (EMA weights)",
        WeightSet::Raw => "model (raw weights)",
        WeightSet::Single => "model",
    };
    let mut metadata = metadata(model.config());
    metadata.extend(model.images().map(ImageSpec::metadata).into_iter().flatten());
    Ok(LoadTarget {
        description,
        tensors: model.tensors().clone(),
        metadata,
        is_quantized: model.quantized_names(),
    })
}

fn codec<'a>(file: &'a WeightFile, hints: &LoadHintArgs) -> Result<LoadTarget<'a>> {
    if hints.heads.is_some() {
        let path = file.path().display();
        return Err(format!("--heads: applies to models only, but {path} is a VAE").into());
    }
    let codec = StoredCodec::find_with(file, &hints.into())?;
    codec.check()?;
    let metadata = metadata(codec.config());
    Ok(LoadTarget { description: "VAE", tensors: codec.tensors().clone(), metadata, is_quantized: |_| false })
}

/// Metadata with the configuration, as the library writes it.
fn metadata(config: StoredConfig) -> BTreeMap<String, String> {
    BTreeMap::from([(config.key.to_owned(), config.json)])
}

/// Writes the tensors piece by piece, so that memory does not grow with their size; those that are quantised one by one.
fn write(path: &Path, target: &LoadTarget<'_>, precision: Option<Precision>) -> Result<()> {
    let token = cancellation_token()?;
    let tensors = target.tensors.stored(precision, target.is_quantized)?;
    write_atomic_cancellable(path, tensors, &target.metadata, &token).map_err(|error| match error {
        Error::Cancelled => Failure::Interrupted(format!("{} was not written", path.display())),
        error => error.into(),
    })
}
