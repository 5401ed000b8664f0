//! `transdiff convert`: converts a checkpoint or VAE to safetensors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use transdiff::checkpoint::{Entry, StoredDType, View, WeightFile, WeightView, write_atomic};
use transdiff::models::{FileKind, StoredCodec, StoredConfig, WeightSet};
use transdiff::{DType, Error, HostTensor};

use crate::failure::{Failure, Result};
use crate::load_hints::{DTypeArg, LoadHintArgs};
use crate::{format, output};

/// Arguments of `transdiff convert`.
#[derive(Args)]
#[command(
    after_help = "The input is a checkpoint of the published implementation (.pth), its VAE (.ckpt), a training run of \
this library, or a model or VAE in safetensors format; its type is detected from its contents. A training run is \
converted to its EMA weights unless --weights raw is given, as in the paper. The configuration is written to the \
metadata, so that loading the new file needs no flags.

Examples:
  transdiff convert checkpoint-last.pth model.safetensors
  transdiff convert checkpoint-last.pth small.safetensors --dtype bf16
  transdiff convert weights.pth model.safetensors --heads 12
  transdiff convert kl16.ckpt vae.safetensors
  transdiff convert lightning.ckpt model.safetensors --key state_dict.model"
)]
pub struct ConvertArgs {
    /// Checkpoint or VAE to read: safetensors, .pth, .pt or .ckpt
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Safetensors file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    hints: LoadHintArgs,
    /// Data type of the weights in OUT [default: as in IN]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DTypeArg>,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
}

/// Model or codec found in the input file, with the metadata to write beside its tensors.
struct LoadTarget<'a> {
    /// Description for the user: `model (EMA weights)`.
    description: &'static str,
    tensors: WeightView<'a>,
    metadata: BTreeMap<String, String>,
}

pub fn run(args: &ConvertArgs) -> Result<()> {
    if args.output.exists() && !args.force {
        return Err(format!("{}: already exists; add --force to replace it", args.output.display()).into());
    }
    let file = WeightFile::open(&args.input)?;
    let target = find(&file, &args.hints)?;
    write(&args.output, &target, args.dtype.map(DType::from))?;
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
        FileKind::Unknown => Err(FileKind::unknown_error(file).into()),
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
    Ok(LoadTarget { description, tensors: model.tensors().clone(), metadata: metadata(model.config()) })
}

fn codec<'a>(file: &'a WeightFile, hints: &LoadHintArgs) -> Result<LoadTarget<'a>> {
    if hints.heads.is_some() {
        let path = file.path().display();
        return Err(format!("--heads: applies to models only, but {path} is a VAE").into());
    }
    let codec = StoredCodec::find_with(file, &hints.into())?;
    codec.check()?;
    let metadata = metadata(codec.config());
    Ok(LoadTarget { description: "VAE", tensors: codec.tensors().clone(), metadata })
}

/// Metadata with the configuration, as the library writes it.
fn metadata(config: StoredConfig) -> BTreeMap<String, String> {
    BTreeMap::from([(config.key.to_owned(), config.json)])
}

/// Writes the tensors one by one, so that only one of them is in memory at a time.
fn write(path: &Path, target: &LoadTarget<'_>, dtype: Option<DType>) -> Result<()> {
    let read_error = RefCell::new(None);
    let tensors = target.tensors.entries().map(|(name, entry)| {
        let dtype = dtype.or(entry.decoded()).unwrap_or(DType::F32);
        (name, LazyTensor { tensors: &target.tensors, name, entry, dtype, read_error: &read_error })
    });
    let written = write_atomic(path, tensors, &target.metadata);
    match read_error.into_inner() {
        Some(error) => Err(Failure::from(error)),
        None => Ok(written?),
    }
}

/// Tensor that is read when it is written.
struct LazyTensor<'a> {
    tensors: &'a WeightView<'a>,
    name: &'a str,
    entry: &'a Entry,
    dtype: DType,
    /// Receives the error if the tensor cannot be read, because `View` cannot return it.
    read_error: &'a RefCell<Option<Error>>,
}

impl LazyTensor<'_> {
    fn read(&self) -> transdiff::Result<HostTensor> {
        let tensor = self.tensors.tensor(self.name)?.cast(self.dtype)?;
        if tensor.data().is_finite() {
            return Ok(tensor);
        }
        Err(Error::Tensor {
            path: self.tensors.file().path().to_owned(),
            tensor: self.name.to_owned(),
            expected: format!("values within the range of {}", self.dtype),
            got: "a value out of range".to_owned(),
        })
    }
}

impl View for LazyTensor<'_> {
    fn dtype(&self) -> StoredDType {
        match self.dtype {
            DType::F32 => StoredDType::F32,
            DType::F64 => StoredDType::F64,
            DType::BF16 => StoredDType::BF16,
            DType::I32 => StoredDType::I32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.entry.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The writer rejects a tensor without bytes, and then leaves the old file in place.
        let bytes = self.read().map(|tensor| View::data(&&tensor).into_owned());
        Cow::Owned(bytes.unwrap_or_else(|error| {
            *self.read_error.borrow_mut() = Some(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.entry.shape().iter().product::<usize>() * self.dtype.size()
    }
}
