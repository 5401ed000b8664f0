//! Index of a complete cache.

use transdiff_core::checkpoint::{StoredDType, WeightFile};
use transdiff_core::{Error, Result};

use super::directory::CacheDirectory;
use super::entries::EntryList;
use super::header::CacheSpec;
use super::raw_tensor::{RawTensor, expect, read_text, read_words, tensor_error};

const ROWS: &str = "rows";
const CHECKSUMS: &str = "checksums";
const SKIPPED: &str = "skipped";

/// Picture that is not in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Path relative to the folder of pictures.
    pub path: String,
    /// The reason.
    pub reason: String,
}

/// Contents of an index, apart from paths and labels.
#[derive(Default)]
pub(super) struct Contents {
    /// Places of the stored pictures among all, which give the paths and labels.
    pub entries: Vec<u32>,
    /// Shard times entries per shard, plus the row.
    pub rows: Vec<u32>,
    /// CRC-32 of each variant.
    pub checksums: Vec<u32>,
}

impl Contents {
    /// The tensors of the index with those of paths and labels.
    pub fn tensors(
        self,
        spec: &CacheSpec,
        mut listed: Vec<(&'static str, RawTensor)>,
        skipped: &[Skipped],
    ) -> Vec<(&'static str, RawTensor)> {
        let count = self.rows.len();
        let skipped: Vec<_> = skipped.iter().map(|picture| (&picture.path, &picture.reason)).collect();
        let skipped = serde_json::to_string(&skipped).expect("strings can be written as JSON");
        listed.push((ROWS, RawTensor::words(&[count], self.rows)));
        listed.push((CHECKSUMS, RawTensor::words(&[count, spec.variants()], self.checksums)));
        listed.push((SKIPPED, RawTensor::text(skipped)));
        listed
    }
}

/// Position of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub shard: usize,
    pub row: usize,
}

/// An open index: 8 bytes per entry and 4 per variant in memory; paths stay on disk.
pub(super) struct Index {
    list: EntryList,
    labels: Vec<u32>,
    rows: Vec<u32>,
    checksums: Vec<u32>,
    variants: usize,
    shard_entries: usize,
}

impl Index {
    /// Opens the index of `cache`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing or that of another cache; [`Error::Tensor`] or [`Error::TensorNames`] if it is
    /// inconsistent; [`Error::Io`].
    pub fn open(cache: &CacheDirectory) -> Result<Self> {
        let path = cache.index_path();
        if !path.exists() {
            let message = "the cache has no index: it is not finished, or its parts have not been merged";
            return Err(Error::format(cache.path(), message));
        }
        let file = WeightFile::open(&path)?;
        cache.check_mark(&file)?;
        let list = EntryList::new(file)?;
        let (spec, len) = (&cache.header.spec, list.len());
        let (file, variants) = (list.file(), spec.variants());
        expect(file, ROWS, StoredDType::U32, [Some(len)])?;
        expect(file, CHECKSUMS, StoredDType::U32, [Some(len), Some(variants)])?;
        let labels = list.labels(spec.images.classes.len())?;
        let rows = read_words(file, ROWS, len)?;
        let checksums = read_words(file, CHECKSUMS, len * variants)?;
        let end = cache.header.entries;
        if !rows.is_sorted_by(|a, b| a < b) || rows.last().is_some_and(|&last| last as usize >= end) {
            let expected = format!("ascending rows below {end}");
            return Err(tensor_error(file, ROWS, expected, "others"));
        }
        Ok(Self { labels, rows, checksums, variants, shard_entries: spec.shard_entries, list })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Class of entry `index`.
    pub fn label(&self, index: usize) -> usize {
        self.labels[index] as usize
    }

    /// Shard and row of entry `index`.
    pub fn location(&self, index: usize) -> Location {
        let row = self.rows[index] as usize;
        Location { shard: row / self.shard_entries, row: row % self.shard_entries }
    }

    /// End of each of `shards` shards, as an index of entries.
    pub fn shard_ends(&self, shards: usize) -> Vec<usize> {
        let end = |shard: usize| (shard + 1) * self.shard_entries;
        (0..shards).map(|shard| self.rows.partition_point(|&row| (row as usize) < end(shard))).collect()
    }

    /// Checksum of variant `variant` of entry `index`.
    pub fn checksum(&self, index: usize, variant: usize) -> u32 {
        self.checksums[index * self.variants + variant]
    }

    /// Paths of the entries.
    pub fn list(&self) -> &EntryList {
        &self.list
    }

    /// Reads the pictures that were left out.
    pub fn skipped(&self) -> Result<Vec<Skipped>> {
        let file = self.list.file();
        let pairs: Vec<(String, String)> = serde_json::from_str(&read_text(file, SKIPPED)?)
            .map_err(|error| tensor_error(file, SKIPPED, "a JSON list of paths and reasons", error))?;
        Ok(pairs.into_iter().map(|(path, reason)| Skipped { path, reason }).collect())
    }
}
