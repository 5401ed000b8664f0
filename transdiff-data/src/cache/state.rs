//! State of a cache on disk, complete or not.

use std::path::Path;

use transdiff_core::Result;

use super::directory::CacheDirectory;
use super::header::CacheHeader;
use super::index::Skipped;
use super::writer::{finished, read_entries};

/// State of a cache, complete or not.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheState {
    /// The header.
    pub header: CacheHeader,
    /// [`merge`](super::merge) has written the index.
    pub is_merged: bool,
    /// Numbers of the shards that are missing or incomplete.
    pub unfinished: Vec<usize>,
    /// Pictures of the finished shards that were left out.
    pub skipped: Vec<Skipped>,
    /// Number of stored pictures per class, those of finished shards.
    pub class_counts: Vec<usize>,
}

impl CacheState {
    /// Reads the state of the cache in the directory `path`; `None` if the directory holds no cache. Latents are not read.
    /// Other processes may write to the cache meanwhile.
    ///
    /// # Errors
    /// [`Error::Format`](transdiff_core::Error::Format) if the header is no header, of another version, or invalid, or if
    /// the list of pictures is another than it describes;
    /// [`Error::Tensor`](transdiff_core::Error::Tensor) and
    /// [`Error::TensorNames`](transdiff_core::Error::TensorNames) for an inconsistent list;
    /// [`Error::Io`](transdiff_core::Error::Io).
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let Some(cache) = CacheDirectory::read(path.as_ref())? else { return Ok(None) };
        let entries = read_entries(&cache)?;
        let classes = entries.iter().map(|entry| entry.label as usize + 1).max().unwrap_or(0);
        let mut state = Self {
            is_merged: cache.index_path().exists(),
            unfinished: Vec::new(),
            skipped: Vec::new(),
            class_counts: vec![0; classes.max(cache.header.spec.images.classes.len())],
            header: cache.header.clone(),
        };
        for number in 0..cache.header.shards() {
            let Ok(contents) = finished(&cache, number)? else {
                state.unfinished.push(number);
                continue;
            };
            for place in contents.entries {
                state.class_counts[entries[place as usize].label as usize] += 1;
            }
            state.skipped.extend(contents.skipped.into_iter().map(|(place, reason)| {
                let path = entries[place as usize].path.clone();
                Skipped { path, reason }
            }));
        }
        Ok(Some(state))
    }

    /// Number of stored pictures.
    pub fn stored(&self) -> usize {
        self.class_counts.iter().sum()
    }
}
