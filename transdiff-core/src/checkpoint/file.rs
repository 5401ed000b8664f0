//! Files of named tensors, and views of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::Dtype;
use serde_json::Value;

use super::allocation_limit::AllocationLimit;
use super::byte_reader::{ByteReader, OpenFile};
use super::contents::Contents;
use super::entry::{Entry, check_range, pair_scales, scales_name};
use super::errors::{read_error, tensor_error};
use super::format::{self, FileFormat, Format};
use super::stored_tensor::{Form, StoredTensor};
use super::write::stored_dtype;
use super::{pytorch, safetensors, shards};
use crate::{DType, Error, HostTensor, Int8Weight, Precision, Result};

/// Ratio of the bytes that the tensors of a view may take in memory to the bytes of the file. Tied weights are few, but
/// elements may be wider in memory than in the file: f32 of f16 twice, f32 of 8-bit integers four times.
const MAX_SHARING: u64 = 4;
/// Bytes that they may take beyond that, for expanded buffers.
const MAX_EXPANDED_BYTES: u64 = 8 << 20;

/// A file of named tensors, safetensors or PyTorch. Only its table of contents is kept in memory; tensors are read on
/// demand.
///
/// The file is untrusted input. Nothing in it is executed, sizes are checked before anything is allocated, and every
/// error names the file.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    /// Paths of the files that an index lists.
    shards: Vec<PathBuf>,
    reader: ByteReader,
    format: Format,
    contents: Contents,
}

impl WeightFile {
    /// Opens a file. Its contents tell whether it is safetensors or PyTorch, or the index of a model in several safetensors
    /// files, such as `model.safetensors.index.json`; then all of them are opened as one.
    ///
    /// Tensors are read from disk by position. If the file changes meanwhile, reading fails or returns other values.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot read it, [`Error::OutOfMemory`], [`Error::Format`] if it is not a complete
    /// file of either format, [`Error::Tensor`] if the header of a safetensors file describes a tensor inconsistently. A
    /// tensor of a PyTorch file that is inconsistent is an error when it is read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_reader(path, ByteReader::open(path)?, Some(&ByteReader::open))
    }

    /// Like [`open`](Self::open), with the file memory-mapped: tensors are decoded from its pages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Safety
    /// No process, this one included, changes or truncates the file, or the files that it lists, during the lifetime of
    /// the value. Otherwise behaviour is undefined; a truncated file typically ends the process with a bus error.
    pub unsafe fn open_mapped(path: impl AsRef<Path>) -> Result<Self> {
        // SAFETY: the caller promises it.
        let map = |path: &Path| unsafe { ByteReader::map(path) };
        let path = path.as_ref();
        Self::from_reader(path, map(path)?, Some(&map))
    }

    /// Opens a file whose contents are already in memory. Errors call it `name`. An index of several files cannot be
    /// opened like this.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(
        name: impl Into<PathBuf>,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::from_reader(&name.into(), ByteReader::Memory(Box::new(bytes)), None)
    }

    /// `open` opens the files that an index lists.
    fn from_reader(path: &Path, reader: ByteReader, open: Option<&OpenFile<'_>>) -> Result<Self> {
        let mut shard_paths = Vec::new();
        let (format, reader, mut contents) = match format::detect(&reader, path)? {
            FileFormat::Safetensors => {
                let mut limit = AllocationLimit::for_file(reader.len());
                let contents = safetensors::read(&reader, path, &mut limit)?;
                (Format::Safetensors, reader, contents)
            }
            FileFormat::PyTorch => {
                let contents = pytorch::read(&reader, path)?;
                (Format::PyTorch, reader, contents)
            }
            FileFormat::Json => {
                let message = "a JSON file in memory; an index of shards has to be opened by its path";
                let open = open.ok_or_else(|| Error::format(path, message))?;
                let (reader, contents, paths) = shards::open(&reader, path, open)?;
                shard_paths = paths;
                (Format::Safetensors, reader, contents)
            }
        };
        if format == Format::Safetensors {
            pair_scales(&mut contents.entries);
        }
        Ok(Self { path: path.to_owned(), shards: shard_paths, reader, format, contents })
    }

    /// Checks that the file is a whole model by its name: not one of several shards, such as
    /// `model-00001-of-00002.safetensors`.
    ///
    /// # Errors
    /// [`Error::Format`], which names the index to open instead.
    pub fn check_complete(&self) -> Result<()> {
        match (shards::position(&self.path), shards::index_name(&self.path)) {
            (Some((number, count)), Some(index)) => {
                let message =
                    format!("shard {number} of {count}: open the index of all shards, {index}, instead");
                Err(Error::format(&self.path, message))
            }
            _ => Ok(()),
        }
    }

    /// Version of the conventions of this library that the file follows, if it records one. The
    /// [metadata](Self::metadata) does not repeat it.
    pub fn format_version(&self) -> Option<u32> {
        self.contents.format_version
    }

    /// Path of the file; every error about its contents names it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the contents were given in memory, so that [`path`](Self::path) is but a name.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.reader, ByteReader::Memory(_))
    }

    /// Paths of all files that are read: the file, and the shards if it is an index.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.path].into_iter().chain(&self.shards).map(PathBuf::as_path)
    }

    /// Format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Free-form strings of a safetensors header, such as configuration and step. Empty for PyTorch.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// Plain data of a PyTorch file, by the key of its dictionary: numbers, strings, lists, dictionaries. Empty for
    /// safetensors.
    ///
    /// An `argparse.Namespace` becomes an object of its fields. No other instance, function or class is built: each is
    /// represented as `{"$python": "module.name"}`. So are bytes, integers beyond 64 bits, strings that are not UTF-8
    /// and tensors of more than eight axes, with a description in place of the name. Dictionary keys become strings; a
    /// key that has no string form, or one that collides with another key, as 1 does with "1", becomes `$` and its
    /// index. A float that is not finite becomes a string, because JSON cannot represent it. Dictionaries and lists
    /// that contain only tensors are left out. Data that is too large for its file becomes the string
    /// `… (skipped: too large)`; so does a dictionary item with far too many tensors, none of which is listed then.
    pub fn values(&self) -> &serde_json::Map<String, Value> {
        &self.contents.values
    }

    /// Type and shape of every tensor, by name. The name of a tensor in nested dictionaries is the path of keys, joined
    /// with dots: `model.class_emb.weight`.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.contents.entries
    }

    /// Reads one tensor, row-major.
    ///
    /// F32, F64, BF16 and I32 are kept; F16 becomes f32 (exact), I64 becomes i32. A matrix of I8 with one scale per row, the
    /// F32 tensor of its name and `_scale`, becomes f32 (exact). The scales are no tensor of their own.
    ///
    /// # Errors
    /// [`Error::TensorNames`] if there is no tensor of that name; [`Error::Tensor`] if it has a type not listed above,
    /// an integer outside the range of i32 or a value that is not finite, or is a view with far more elements than its
    /// storage; [`Error::Io`] if the system cannot read it; [`Error::OutOfMemory`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.entry(name)?.read(&self.reader, &self.path, name, 0)
    }

    /// Reads the bytes of the elements `elements` of one tensor, counted row-major, and nothing else of the file. They are
    /// little-endian as in the file, borrowed if the file is mapped or in memory; their values are not checked.
    ///
    /// # Errors
    /// [`Error::TensorNames`] if there is no tensor of that name; [`Error::Tensor`] if it has fewer elements, or if they
    /// do not lie in the file one after another; [`Error::Io`] if the system cannot read it; [`Error::OutOfMemory`].
    pub fn stored_bytes(&self, name: &str, elements: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let invalid = |(expected, got): (String, String)| tensor_error(&self.path, name, expected, got);
        let (start, len) = self.entry(name)?.byte_range(elements).map_err(invalid)?;
        self.reader.slice(start, len).map_err(read_error(&self.path, format!("tensor {name}"), len))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.contents.entries.get(name).ok_or_else(|| {
            let (path, missing) = (self.path.clone(), vec![name.to_owned()]);
            Error::TensorNames { path, missing, extra: Vec::new() }
        })
    }

    /// Keys of the dictionary of a PyTorch file, or the first components of the names in a safetensors file; sorted.
    pub fn top_level_keys(&self) -> BTreeSet<&str> {
        let first = |name: &'_ String| -> usize { name.find('.').unwrap_or(name.len()) };
        let tensors = self.contents.entries.keys().map(|name| &name[..first(name)]);
        tensors.chain(self.contents.values.keys().map(String::as_str)).collect()
    }

    /// Returns the tensors whose names begin with `prefix`, which is stripped from their names.
    pub fn select<'a>(&'a self, prefix: &str) -> WeightView<'a> {
        let names = self.contents.entries.keys();
        self.view(names.filter_map(|full| Some((full.strip_prefix(prefix)?.into(), full.as_str()))).collect())
    }

    /// Returns a view of the tensors `names`, each a name in the view and a name in the file.
    pub(crate) fn view<'a>(&'a self, names: BTreeMap<Cow<'a, str>, &'a str>) -> WeightView<'a> {
        WeightView { file: self, names }
    }
}

/// A subset of a file's tensors, under names of its own.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    file: &'a WeightFile,
    /// Name in the view → name in the file.
    names: BTreeMap<Cow<'a, str>, &'a str>,
}

impl<'a> WeightView<'a> {
    /// The file that contains the tensors.
    pub fn file(&self) -> &'a WeightFile {
        self.file
    }

    /// Returns whether the view contains no tensor.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Description of the tensor `name`.
    pub fn get(&self, name: &str) -> Option<&'a Entry> {
        self.file.contents.entries.get(*self.names.get(name)?)
    }

    /// Name, type and shape of every tensor, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &'a Entry)> {
        self.names.iter().map(|(name, &full)| (&**name, &self.file.contents.entries[full]))
    }

    /// Reads one tensor, like [`WeightFile::tensor`].
    ///
    /// # Errors
    /// As [`WeightFile::tensor`]; they use the tensor's name in the file.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.file.tensor(self.names.get(name).copied().unwrap_or(name))
    }

    /// Reads one tensor, like [`tensor`](Self::tensor), and converts it to the type `dtype`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); [`Error::Tensor`] for a value beyond the range of `dtype`.
    pub fn tensor_as(&self, name: &str, dtype: DType) -> Result<HostTensor> {
        let host = self.tensor(name)?;
        let full = self.names.get(name).copied().unwrap_or(name);
        check_range(&self.file.path, full, host.data(), stored_dtype(dtype), 0)?;
        host.cast(dtype)
    }

    /// Reads a matrix of 8-bit integers and its scales; `None` for any other tensor.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn int8(&self, name: &str) -> Result<Option<Int8Weight>> {
        let full = self.names.get(name).copied().unwrap_or(name);
        self.file.entry(full)?.read_int8(&self.file.reader, &self.file.path, full)
    }

    /// Every tensor with its name, to be written to another file: for computation in `precision`, or as it is stored. Those
    /// for which `is_quantized` returns true are written as 8-bit integers, if `precision` has them, and their scales. Nothing is
    /// read until it is written.
    ///
    /// # Errors
    /// [`Error::DType`] if the type is no float type.
    pub fn stored(
        &self,
        precision: Option<Precision>,
        is_quantized: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, StoredTensor<'a>)>> {
        if let Some(got) = precision.map(Precision::dtype).filter(|dtype| !dtype.is_float()) {
            return Err(Error::DType { op: "stored", expected: "a float type".to_owned(), got });
        }
        let WeightFile { path, reader, contents, .. } = self.file;
        let mut tensors = Vec::new();
        for (name, &full) in &self.names {
            let entry = &contents.entries[full];
            let mut put =
                |name, form| tensors.push((name, StoredTensor { reader, path, name: full, entry, form }));
            let is_int8 = match precision {
                Some(precision) => precision.is_int8() && is_quantized(name),
                None => entry.scales.is_some(),
            };
            if is_int8 {
                put(name.to_string(), Form::Int8Values);
                put(scales_name(name), Form::Int8Scales);
            } else {
                put(name.to_string(), precision.map_or(Form::Stored, |p| Form::Float(p.dtype())));
            }
        }
        Ok(tensors)
    }

    /// Returns the tensors of this view whose names begin with `prefix`, which is stripped from their names.
    pub fn select(&self, prefix: &str) -> WeightView<'a> {
        let strip = |name: &Cow<'a, str>| match name {
            Cow::Borrowed(name) => name.strip_prefix(prefix).map(Cow::Borrowed),
            Cow::Owned(name) => name.strip_prefix(prefix).map(|name| Cow::Owned(name.to_owned())),
        };
        let names = self.names.iter().filter_map(|(name, &full)| Some((strip(name)?, full)));
        self.file.view(names.collect())
    }

    /// Returns the tensors of this view for whose names `keep` returns true.
    #[must_use]
    pub fn filtered(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.names.retain(|name, _| keep(name));
        self
    }

    /// Checks that the view contains exactly the tensors `expected`, each a name and a shape, with floating-point
    /// elements. No tensor is read.
    ///
    /// # Errors
    /// [`Error::TensorNames`] for missing and extra names; [`Error::Tensor`] for a tensor of a wrong shape or type, or
    /// that the file does not hold as it says; [`Error::Format`] if the file is one of several shards, or if the tensors
    /// take far more memory than the file has bytes.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        self.check_names(expected)?;
        self.check_sharing()?;
        expected.iter().try_for_each(|(name, shape)| {
            let full = self.names[name.as_str()];
            let entry = &self.file.contents.entries[full];
            entry.check().map_err(|(expected, got)| tensor_error(&self.file.path, full, expected, got))?;
            if entry.shape() == shape && entry.decoded().is_some_and(DType::is_float) {
                return Ok(());
            }
            let got = format!("{} {:?}", entry.dtype(), entry.shape());
            let mut expected = format!("floats of shape {shape:?}");
            if entry.dtype() == Dtype::I8 && entry.scales().is_none() {
                expected += &format!(", or I8 with the tensor {}, F32, of its scales", scales_name(full));
            }
            Err(tensor_error(&self.file.path, full, expected, got))
        })
    }

    /// Checks that reading all tensors takes memory in proportion to the file, although each may be as large as the
    /// storage that they share.
    fn check_sharing(&self) -> Result<()> {
        let decoded = self.entries().fold(0u64, |sum, (_, entry)| sum.saturating_add(entry.decoded_bytes()));
        let len = self.file.reader.len();
        let max = len.saturating_mul(MAX_SHARING).saturating_add(MAX_EXPANDED_BYTES);
        if decoded <= max {
            return Ok(());
        }
        let message = format!(
            "tensors of {decoded} bytes in memory share storages in a file of {len} bytes, at most {max} bytes are allowed"
        );
        Err(Error::format(&self.file.path, message))
    }

    fn check_names(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<String> =
            known.iter().filter(|n| !self.names.contains_key(**n)).map(|&n| n.to_owned()).collect();
        let extra: Vec<String> =
            self.names.iter().filter(|(n, _)| !known.contains(&***n)).map(|(_, &n)| n.to_owned()).collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        self.file.check_complete()?;
        Err(Error::TensorNames { path: self.file.path.clone(), missing, extra })
    }
}
