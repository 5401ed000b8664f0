//! `transdiff convert`: a safetensors file of a model or a VAE in any file that can be read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use transdiff::checkpoint::{Entry, StoredDType, View, WeightFile, WeightView, write_atomic};
use transdiff::models::FileKind;
use transdiff::models::transdiff::{CONFIG_KEY, WeightSet};
use transdiff::models::vae::{StoredVae, VAE_CONFIG_KEY, Vae};
use transdiff::nn::Module;
use transdiff::{Cpu, DType, Error, HostTensor, TransDiff};

use crate::failure::{Failure, Result};
use crate::source::{self, Hints, Type};
use crate::text;

/// What is converted, and how
#[derive(Args)]
#[command(
    after_help = "The input may be a checkpoint of the published implementation (.pth), its VAE (.ckpt), a training run of
this library, or a model or VAE as safetensors; which one is told by its contents. Of a training run the
averaged weights are taken, as the paper does. The sizes go into the metadata, so that the new file needs
no flags.

Examples:
  transdiff convert checkpoint-last.pth model.safetensors
  transdiff convert checkpoint-last.pth small.safetensors --dtype bf16
  transdiff convert weights.pth model.safetensors --heads 12
  transdiff convert kl16.ckpt vae.safetensors"
)]
pub struct Options {
    /// The file to read
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The safetensors file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    hints: Hints,
    /// Type of the weights in the new file [default: that of the input]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Type>,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
}

/// What is written: tensors, and the metadata that describes them.
struct Found<'a> {
    what: String,
    tensors: WeightView<'a>,
    metadata: BTreeMap<String, String>,
}

pub fn run(options: &Options) -> Result<()> {
    if options.output.exists() && !options.force {
        return Err(format!("{}: exists already (--force replaces it)", options.output.display()).into());
    }
    let file = WeightFile::open(&options.input)?;
    let found = find(&file, options.hints)?;
    write(&options.output, &found, options.dtype.map(DType::from))?;
    let written = std::fs::metadata(&options.output).map_err(Error::io(&options.output))?.len();
    let tensors = found.tensors.entries().count();
    let line = format!(
        "{}: {}, {tensors} tensors, {}\n",
        options.output.display(),
        found.what,
        text::bytes(written)
    );
    text::print(line)
}

fn find(file: &WeightFile, hints: Hints) -> Result<Found<'_>> {
    match FileKind::of(file) {
        FileKind::Model | FileKind::TrainingRun => model(file, hints),
        FileKind::Vae { .. } => vae(file, hints),
        FileKind::Unknown => {
            let path = file.path().display();
            Err(format!(
                "{path}: neither a TransDiff model nor a VAE (`transdiff inspect` shows what it holds)"
            )
            .into())
        }
    }
}

fn model(file: &WeightFile, hints: Hints) -> Result<Found<'_>> {
    let source = hints.find(file)?;
    let tensors = source.tensors().clone();
    tensors.check(&shapes(&TransDiff::placeholder(&Cpu::new(Some(1))?, source.config(), DType::F32)?))?;
    let what = match source.weights() {
        WeightSet::Single => "model".to_owned(),
        which => format!("model ({} weights)", source::name(which)),
    };
    Ok(Found { what, tensors, metadata: described(CONFIG_KEY, source.config()) })
}

fn vae(file: &WeightFile, hints: Hints) -> Result<Found<'_>> {
    if hints.heads.is_some() || hints.weights.is_some() {
        let path = file.path().display();
        return Err(format!("{path}: a VAE, for which there is no --heads and no --weights").into());
    }
    let source = StoredVae::find(file)?;
    let tensors = source.tensors().clone();
    tensors.check(&shapes(&Vae::placeholder(&Cpu::new(Some(1))?, source.config(), DType::F32)?))?;
    Ok(Found { what: "VAE".into(), tensors, metadata: described(VAE_CONFIG_KEY, source.config()) })
}

/// The metadata that says the sizes, as the library writes them.
fn described(key: &str, config: &impl Serialize) -> BTreeMap<String, String> {
    let text = serde_json::to_string(config).expect("a configuration is plain data");
    BTreeMap::from([(key.to_owned(), text)])
}

/// Names and shapes of a module's parameters.
fn shapes(module: &dyn Module<Cpu>) -> Vec<(String, Vec<usize>)> {
    module.params().into_iter().map(|(name, param)| (name, param.value().shape().to_vec())).collect()
}

/// Writes the tensors one after another: memory holds one of them.
fn write(path: &Path, found: &Found<'_>, dtype: Option<DType>) -> Result<()> {
    let fault = RefCell::new(None);
    let tensors = found.tensors.entries().map(|(name, entry)| {
        let dtype = dtype.or(entry.decoded()).unwrap_or(DType::F32);
        (name, Lazy { tensors: &found.tensors, name, entry, dtype, fault: &fault })
    });
    let written = write_atomic(path, tensors, &found.metadata);
    match fault.into_inner() {
        Some(error) => Err(Failure::from(error)),
        None => Ok(written?),
    }
}

/// A tensor that is read when its turn to be written comes.
struct Lazy<'a> {
    tensors: &'a WeightView<'a>,
    name: &'a str,
    entry: &'a Entry,
    dtype: DType,
    /// Why a tensor could not be read: the writer's trait knows no errors.
    fault: &'a RefCell<Option<Error>>,
}

impl Lazy<'_> {
    fn read(&self) -> transdiff::Result<HostTensor> {
        let tensor = self.tensors.tensor(self.name)?.cast(self.dtype)?;
        if tensor.data().is_finite() {
            return Ok(tensor);
        }
        Err(Error::Tensor {
            path: self.tensors.file().path().to_owned(),
            tensor: self.name.to_owned(),
            expected: format!("values within the range of {}", self.dtype),
            got: "one beyond it".to_owned(),
        })
    }
}

impl View for Lazy<'_> {
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
        // What gives no bytes is refused by the writer, which then leaves the old file in place.
        let bytes = self.read().map(|tensor| View::data(&&tensor).into_owned());
        Cow::Owned(bytes.unwrap_or_else(|error| {
            *self.fault.borrow_mut() = Some(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.entry.shape().iter().product::<usize>() * self.dtype.size()
    }
}
