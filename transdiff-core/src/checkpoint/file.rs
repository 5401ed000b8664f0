//! A file of named tensors, and views of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::entry::Entry;
use super::source::Source;
use super::{Contents, Format, format, pytorch, safetensors, tensor_error};
use crate::{Error, HostTensor, Result};

/// A file of named tensors, safetensors or PyTorch, of which only the table of contents is in memory: a tensor is
/// read when it is asked for.
///
/// The file may come from anyone. Nothing in it is executed, sizes are checked before anything is allocated, and
/// what is wrong with it is an error that names it.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    source: Source,
    format: Format,
    contents: Contents,
}

impl WeightFile {
    /// Opens a file; whether it is safetensors or PyTorch is told by its contents.
    ///
    /// Tensors are read by position. If the file is changed meanwhile, reading gives an error or other values.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot read it, [`Error::OutOfMemory`], [`Error::Format`] if it is no whole file of
    /// either format or its tensors take far more memory than its storages have bytes, [`Error::Tensor`] if what it says
    /// of a tensor is inconsistent.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_source(path, Source::open(path)?)
    }

    /// As [`open`](Self::open), with the file mapped into memory: tensors are decoded from its pages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Safety
    /// Nobody, in this process or another, changes or truncates the file as long as the value lives. Otherwise
    /// behaviour is undefined; a truncated file typically ends the process with a bus error.
    pub unsafe fn open_mapped(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // SAFETY: the caller promises it.
        Self::from_source(path, unsafe { Source::map(path)? })
    }

    /// A file whose contents are in memory already; errors call it `name`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(
        name: impl Into<PathBuf>,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::from_source(&name.into(), Source::Memory(Box::new(bytes)))
    }

    fn from_source(path: &Path, source: Source) -> Result<Self> {
        let format = format::of(&source, path)?;
        let contents = match format {
            Format::Safetensors => safetensors::read(&source, path)?,
            Format::PyTorch => pytorch::read(&source, path)?,
        };
        Ok(Self { path: path.to_owned(), source, format, contents })
    }

    /// Where it was read from; every error about the contents names it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The free-form strings of a safetensors header: configuration, step. Empty for PyTorch.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// What a PyTorch file holds beside tensors, by the key of its dictionary: numbers, strings, lists,
    /// dictionaries. Empty for safetensors.
    ///
    /// `argparse.Namespace` is an object of its fields. Any other instance, function or class is not made, and stands
    /// there as `{"$python": "module.name"}`; so do bytes, integers beyond 64 bits, strings that are not UTF-8 and tensors
    /// of more than eight axes, by what they are. Keys of dictionaries become text; one that is none, or looks like
    /// another, as 1 beside "1", becomes `$` and its place. A float that is not finite is a string, for JSON has none.
    /// Dictionaries and lists that hold tensors alone are left out.
    pub fn values(&self) -> &serde_json::Map<String, Value> {
        &self.contents.values
    }

    /// Every tensor's type and shape, by name. A tensor in nested dictionaries is named by the path of keys,
    /// with dots: `model.class_emb.weight`.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.contents.entries
    }

    /// Reads one tensor, row-major.
    ///
    /// F32, F64, BF16 and I32 are kept; F16 becomes f32 (exact), and I64 becomes i32.
    ///
    /// # Errors
    /// [`Error::TensorNames`] if there is none of that name; [`Error::Tensor`] if it has a type not listed above, an
    /// integer outside of i32 or a value that is not finite, or repeats its few elements very often; [`Error::Io`] if the
    /// system cannot read it; [`Error::OutOfMemory`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        match self.contents.entries.get(name) {
            Some(entry) => entry.read(&self.source, &self.path, name),
            None => {
                let (path, missing) = (self.path.clone(), vec![name.to_owned()]);
                Err(Error::TensorNames { path, missing, extra: Vec::new() })
            }
        }
    }

    /// The tensors whose names begin with `prefix`, under the rest of their names.
    pub fn select<'a>(&'a self, prefix: &str) -> WeightView<'a> {
        let names = self.contents.entries.keys();
        let names = names.filter_map(|full| Some((full.strip_prefix(prefix)?, full.as_str()))).collect();
        WeightView { file: self, names }
    }
}

/// Some of a file's tensors, under names of their own.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    file: &'a WeightFile,
    /// Name here → name in the file.
    names: BTreeMap<&'a str, &'a str>,
}

impl<'a> WeightView<'a> {
    /// The file.
    pub fn file(&self) -> &'a WeightFile {
        self.file
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What the file says of the tensor `name`.
    pub fn get(&self, name: &str) -> Option<&'a Entry> {
        self.file.contents.entries.get(*self.names.get(name)?)
    }

    /// Every tensor's name, type and shape, in the order of the names.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.names.iter().map(|(&name, &full)| (name, &self.file.contents.entries[full]))
    }

    /// Reads one tensor; as [`WeightFile::tensor`].
    ///
    /// # Errors
    /// As [`WeightFile::tensor`]; they call the tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.file.tensor(self.names.get(name).copied().unwrap_or(name))
    }

    /// The tensors of this view whose names begin with `prefix`, under the rest of their names.
    pub fn select(&self, prefix: &str) -> WeightView<'a> {
        let names = self.names.iter().filter_map(|(name, &full)| Some((name.strip_prefix(prefix)?, full)));
        WeightView { file: self.file, names: names.collect() }
    }

    /// The tensors of this view whose names `keep` takes.
    #[must_use]
    pub fn filtered(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.names.retain(|name, _| keep(name));
        self
    }

    /// Whether the tensors are those of `expected`, and no others: names, shapes, floating-point elements. No tensor
    /// is read.
    ///
    /// # Errors
    /// [`Error::TensorNames`] for missing and extra names, [`Error::Tensor`] for a wrong shape or type.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        self.check_names(expected)?;
        expected.iter().try_for_each(|(name, shape)| {
            let full = self.names[name.as_str()];
            let entry = &self.file.contents.entries[full];
            if entry.shape() == shape && entry.decoded().is_some_and(crate::DType::is_float) {
                return Ok(());
            }
            let got = format!("{} {:?}", entry.dtype(), entry.shape());
            Err(tensor_error(&self.file.path, full, format!("floats of shape {shape:?}"), got))
        })
    }

    fn check_names(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<String> =
            known.iter().filter(|n| !self.names.contains_key(*n)).map(|&n| n.to_owned()).collect();
        let extra: Vec<String> =
            self.names.iter().filter(|(n, _)| !known.contains(*n)).map(|(_, &n)| n.to_owned()).collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        Err(Error::TensorNames { path: self.file.path.clone(), missing, extra })
    }
}
