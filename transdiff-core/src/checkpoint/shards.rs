//! Models in several safetensors files ("shards") with an index, such as `model.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::allocation_limit::AllocationLimit;
use super::byte_reader::{ByteReader, OpenFile};
use super::contents::Contents;
use super::errors::{read_error, tensor_error};
use super::format::{self, FileFormat};
use super::{json, safetensors};
use crate::{Error, Result};

/// Bytes that an index may have. Those of models with a thousand tensors have 0.1 MB.
const MAX_INDEX_BYTES: u64 = 4 << 20;

/// The part of an index that is read.
#[derive(Deserialize)]
struct Index<'a> {
    /// Name of the shard of every tensor.
    #[serde(borrow)]
    weight_map: &'a RawValue,
}

/// Opens the shards that the index `reader` lists, which stand in its folder, and reads their headers. `open` opens a
/// file. Positions in the contents are those in the returned reader. The paths are those of the shards.
pub(super) fn open(
    reader: &ByteReader,
    path: &Path,
    open: &OpenFile<'_>,
) -> Result<(ByteReader, Contents, Vec<PathBuf>)> {
    let shard_of = weight_map(reader, path)?;
    let names: BTreeSet<&String> = shard_of.values().collect();
    let mut shards = Vec::new();
    for name in &names {
        shards.push((path.with_file_name(name), open_shard(path, name, names.len(), open)?));
    }
    let mut limit = AllocationLimit::for_file(shards.iter().map(|(_, shard)| shard.len()).sum());
    let mut out = Contents::default();
    let mut start = 0;
    for ((shard_path, shard), name) in shards.iter().zip(&names) {
        let contents = read_shard(shard, shard_path, &mut limit)?;
        check_listed(&shard_of, name, &contents, path)?;
        out.format_version = out.format_version.max(contents.format_version);
        out.metadata.extend(contents.metadata);
        for (tensor, entry) in contents.entries {
            if out.entries.contains_key(&tensor) {
                return Err(tensor_error(path, &tensor, "it in one shard", "it in two"));
            }
            out.entries.insert(tensor, entry.shifted(start));
        }
        start += shard.len();
    }
    let (paths, readers): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
    Ok((ByteReader::concatenated(readers.into_iter()), out, paths))
}

/// Reads the name of the shard of every tensor.
fn weight_map(reader: &ByteReader, path: &Path) -> Result<BTreeMap<String, String>> {
    if reader.len() > MAX_INDEX_BYTES {
        let message = format!(
            "a JSON file of {} bytes; expected safetensors, PyTorch, or an index of shards, which has at most \
             {MAX_INDEX_BYTES} bytes",
            reader.len()
        );
        return Err(Error::format(path, message));
    }
    let text = reader.slice(0, reader.len());
    let text = text.map_err(read_error(path, "index".to_owned(), reader.len()))?;
    let no_index = |problem: String| {
        let message = format!(
            "a JSON file, but no index of shards ({problem}): give the path of the safetensors or PyTorch file, or of \
             an index such as model.safetensors.index.json"
        );
        Error::format(path, message)
    };
    json::check_depth(&text).map_err(no_index)?;
    let index: Index<'_> = serde_json::from_slice(&text).map_err(|e| no_index(e.to_string()))?;
    let mut limit = AllocationLimit::for_file(reader.len());
    let map = json::string_map(index.weight_map.get(), &mut limit)
        .map_err(|problem| Error::format(path, format!("weight_map: {problem}")))?;
    match map.values().find(|name| !is_file_name(name)) {
        Some(name) => {
            let message =
                format!("weight_map: expected names of files in the folder of the index, got {name}");
            Err(Error::format(path, message))
        }
        None if map.is_empty() => {
            Err(Error::format(path, "weight_map: expected at least one tensor, got none"))
        }
        None => Ok(map),
    }
}

/// Returns whether `name` is the name of a file in the current folder on every system.
pub(crate) fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(first)) if first == OsStr::new(name));
    plain && components.next().is_none() && !name.contains(['/', '\\', ':', '\0'])
}

fn open_shard(index: &Path, name: &str, shards: usize, open: &OpenFile<'_>) -> Result<ByteReader> {
    open(&index.with_file_name(name)).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let message =
                format!("the shard {name} is missing; all {shards} shards have to stand beside the index");
            Error::format(index, message)
        }
        other => other,
    })
}

fn read_shard(reader: &ByteReader, path: &Path, limit: &mut AllocationLimit) -> Result<Contents> {
    match format::detect(reader, path)? {
        FileFormat::Safetensors => safetensors::read(reader, path, limit),
        _ => Err(Error::format(path, "expected a shard in the format safetensors")),
    }
}

/// Checks that the shard `name` has the tensors that the index lists for it.
fn check_listed(
    shard_of: &BTreeMap<String, String>,
    name: &str,
    contents: &Contents,
    path: &Path,
) -> Result<()> {
    let listed = shard_of.iter().filter(|(_, shard)| *shard == name).map(|(tensor, _)| tensor);
    let mut absent = listed.filter(|&tensor| !contents.entries.contains_key(tensor));
    let Some(first) = absent.next() else { return Ok(()) };
    let message = format!(
        "the shard {name} lacks {} tensors that the index lists for it, {first} among them: index and shards have to be \
         of the same model; download all of them again",
        1 + absent.count()
    );
    Err(Error::format(path, message))
}

/// Number of a shard and of all shards, by the name of its file, such as `model-00001-of-00002.safetensors`. `None` for a
/// file that is complete.
pub(super) fn position(path: &Path) -> Option<(u32, u32)> {
    let (_, number, count) = split_name(path)?;
    (count > 1).then_some((number, count))
}

/// Name of the index of the model to which the shard at `path` belongs.
pub(super) fn index_name(path: &Path) -> Option<String> {
    let (stem, ..) = split_name(path)?;
    let extension = path.extension()?.to_str()?;
    Some(format!("{stem}.{extension}.index.json"))
}

fn split_name(path: &Path) -> Option<(&str, u32, u32)> {
    let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_recognised_by_name() {
        let cases = [
            ("a/model-00001-of-00002.safetensors", Some((1, 2))),
            ("diffusion_pytorch_model-00003-of-00003.safetensors", Some((3, 3))),
            ("model-00001-of-00001.safetensors", None),
            ("model.safetensors", None),
            ("best-of-2.safetensors", None),
            ("model-x-of-2.safetensors", None),
        ];
        for (name, expected) in cases {
            assert_eq!(position(Path::new(name)), expected, "{name}");
        }
        assert_eq!(index_name(Path::new(cases[0].0)).as_deref(), Some("model.safetensors.index.json"));
    }

    #[test]
    fn paths_are_no_file_names() {
        assert!(["a.safetensors", "..a", "ä"].into_iter().all(is_file_name));
        let paths = ["", ".", "..", "a/b", "/a", "../a", "a/", "a\\b", "C:a", "a\0"];
        assert!(!paths.into_iter().any(is_file_name));
    }
}
