//! Pictures of a cache: relative paths and labels, and the tensors that hold them in files.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use transdiff_core::checkpoint::{StoredDType, WeightFile};
use transdiff_core::text::shortened;
use transdiff_core::{Error, Result};

use super::raw_tensor::{RawTensor, expect, read_text, read_words, tensor_error};

const LABELS: &str = "labels";
const PATHS: &str = "paths";
const PATH_ENDS: &str = "path_ends";
/// Characters of a path that messages show.
const PATH_SHOWN: usize = 120;

/// Picture of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Path relative to the folder of pictures, with slashes: `CLASS/NAME.png`.
    pub path: String,
    /// Class.
    pub label: u32,
}

/// SHA-256 of paths and labels, in hexadecimal.
pub(super) fn hash(entries: &[CacheEntry]) -> String {
    let mut hasher = Sha256::new();
    for entry in entries {
        hasher.update((entry.path.len() as u64).to_le_bytes());
        hasher.update(entry.path.as_bytes());
        hasher.update(entry.label.to_le_bytes());
    }
    hexadecimal(&hasher.finalize())
}

/// `bytes` in hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Tensors of paths and labels: `labels` [n], `path_ends` [n], the positions in `paths` at which each path ends.
pub(super) fn tensors<'a>(entries: impl Iterator<Item = (&'a str, u32)>) -> Vec<(&'static str, RawTensor)> {
    let (mut labels, mut ends, mut text) = (Vec::new(), Vec::new(), String::new());
    for (path, label) in entries {
        text.push_str(path);
        labels.push(label);
        ends.extend((text.len() as u64).to_le_bytes());
    }
    let count = labels.len();
    let ends = RawTensor { dtype: StoredDType::U64, shape: vec![count], bytes: ends };
    vec![(LABELS, RawTensor::words(&[count], labels)), (PATH_ENDS, ends), (PATHS, RawTensor::text(text))]
}

/// Paths and labels in a file. They stay on disk.
pub(super) struct EntryList {
    file: WeightFile,
    len: usize,
    text_len: usize,
}

impl EntryList {
    /// The list in `file`.
    ///
    /// # Errors
    /// [`Error::Tensor`] or [`Error::TensorNames`] if its tensors have other types or shapes.
    pub fn new(file: WeightFile) -> Result<Self> {
        let [len] = expect(&file, LABELS, StoredDType::U32, [None])?;
        expect(&file, PATH_ENDS, StoredDType::U64, [Some(len)])?;
        let [text_len] = expect(&file, PATHS, StoredDType::U8, [None])?;
        Ok(Self { file, len, text_len })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The file.
    pub fn file(&self) -> &WeightFile {
        &self.file
    }

    /// Reads the labels, which must be below `classes` unless that is 0.
    pub fn labels(&self, classes: usize) -> Result<Vec<u32>> {
        let labels = read_words(&self.file, LABELS, self.len)?;
        match labels.iter().position(|&label| classes > 0 && label as usize >= classes) {
            Some(at) => {
                let got = format!("{} of entry {at}", labels[at]);
                Err(tensor_error(&self.file, LABELS, format!("labels below {classes}"), got))
            }
            None => Ok(labels),
        }
    }

    /// Reads the path of entry `index`.
    pub fn path(&self, index: usize) -> Result<String> {
        let ends = self.file.stored_bytes(PATH_ENDS, index.saturating_sub(1)..index + 1)?;
        let mut ends = ends.as_chunks::<8>().0.iter().map(|end| u64::from_le_bytes(*end));
        let start = if index == 0 { 0 } else { ends.next().unwrap_or(0) };
        let range = self.range(index, start, ends.next().unwrap_or(0))?;
        let bytes = self.file.stored_bytes(PATHS, range)?.into_owned();
        String::from_utf8(bytes).map_err(|_| self.invalid(index))
    }

    /// Reads all paths into memory.
    pub fn paths(&self) -> Result<Paths> {
        let text = read_text(&self.file, PATHS)?;
        let bytes = self.file.stored_bytes(PATH_ENDS, 0..self.len)?;
        let mut ends = transdiff_core::try_with_capacity("reading a cache", self.len)?;
        let mut start = 0;
        for (index, end) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let range = self.range(index, start as u64, u64::from_le_bytes(*end))?;
            start = range.end;
            if text.get(range).is_none() {
                return Err(self.invalid(index));
            }
            ends.push(start);
        }
        Ok(Paths { text, ends })
    }

    /// Reads all pictures, as they were before they were written.
    pub fn read(&self, classes: usize) -> Result<Vec<CacheEntry>> {
        let (labels, paths) = (self.labels(classes)?, self.paths()?);
        Ok(paths
            .iter()
            .zip(labels)
            .map(|(path, label)| CacheEntry { path: path.to_owned(), label })
            .collect())
    }

    fn range(&self, index: usize, start: u64, end: u64) -> Result<std::ops::Range<usize>> {
        if start <= end && end <= self.text_len as u64 {
            return Ok(start as usize..end as usize);
        }
        Err(self.invalid(index))
    }

    fn invalid(&self, index: usize) -> Error {
        let expected = "ascending positions between characters of the paths";
        tensor_error(&self.file, PATH_ENDS, expected, format!("another at entry {index}"))
    }
}

/// All paths, in memory.
pub(crate) struct Paths {
    text: String,
    ends: Vec<usize>,
}

impl Paths {
    /// The paths in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }
}

/// A path for a message.
pub(super) fn shown(path: &str) -> String {
    shortened(path, PATH_SHOWN)
}
