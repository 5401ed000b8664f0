//! Index of a cache from its shards.

use std::path::Path;

use transdiff_core::checkpoint::write_atomic;
use transdiff_core::{Error, Result};

use super::directory::CacheDirectory;
use super::entries;
use super::index::{self, Skipped};
use super::writer::{finished, read_entries};
use crate::lock::DirectoryLock;

/// Shards that an error names.
const SHOWN: usize = 8;

/// Result of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSummary {
    /// Number of pictures in the cache.
    pub entries: usize,
    /// Number of shards.
    pub shards: usize,
    /// Pictures that were left out.
    pub skipped: Vec<Skipped>,
}

/// Completes the cache in the directory `path`: checks that every shard of every part is there, and writes the index. To
/// merge again gives the same file.
///
/// # Errors
/// [`Error::Format`] if the directory has no header, if shards are missing or incomplete, which it names, or if all pictures
/// were left out;
/// [`Error::Tensor`] or [`Error::TensorNames`] for an inconsistent list of pictures; [`Error::Io`].
pub fn merge(path: impl AsRef<Path>) -> Result<CacheSummary> {
    let path = path.as_ref();
    let cache =
        CacheDirectory::read(path)?.ok_or_else(|| Error::format(path, "no cache: cache.json is missing"))?;
    let _lock = DirectoryLock::acquire(path, &[])?;
    let all = read_entries(&cache)?;
    let spec = &cache.header.spec;
    let shards = cache.header.shards();
    let (mut index, mut skipped, mut problems) = (index::Contents::default(), Vec::new(), Vec::new());
    for number in 0..shards {
        match finished(&cache, number)? {
            Ok(contents) => {
                let first = (number * spec.shard_entries) as u32;
                index.rows.extend((0..contents.entries.len() as u32).map(|row| first + row));
                index.entries.extend(contents.entries);
                index.checksums.extend(contents.checksums);
                skipped.extend(contents.skipped.into_iter().map(|(place, reason)| {
                    let path = all[place as usize].path.clone();
                    Skipped { path, reason }
                }));
            }
            Err(problem) => problems.push((number, problem)),
        }
    }
    if !problems.is_empty() {
        return Err(Error::format(path, missing(&problems, shards)));
    }
    if let (true, Some(first)) = (index.entries.is_empty(), skipped.first()) {
        let message =
            format!("none of {} pictures could be read; the first: {}", skipped.len(), first.reason);
        return Err(Error::format(path, message));
    }
    let kept = index.entries.iter().map(|&place| &all[place as usize]);
    let listed = entries::tensors(kept.map(|entry| (entry.path.as_str(), entry.label)));
    let entries = index.entries.len();
    write_atomic(cache.index_path(), index.tensors(spec, listed, &skipped), &[cache.mark()].into())?;
    Ok(CacheSummary { entries, shards, skipped })
}

fn missing(problems: &[(usize, Error)], shards: usize) -> String {
    let mut named: Vec<String> = problems.iter().take(SHOWN).map(|(number, _)| number.to_string()).collect();
    if problems.len() > SHOWN {
        named.push("…".to_owned());
    }
    let (count, named, first) = (problems.len(), named.join(", "), &problems[0].1);
    format!("{count} of {shards} shards are not finished: {named} ({first}); run their parts again")
}
