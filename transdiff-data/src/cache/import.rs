//! Import of the published cache: a folder per class, in it an npz file per picture.

use std::fs;
use std::path::Path;

use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::{DType, Error, Result};

use super::entries::CacheEntry;
use super::header::{CacheSpec, ItemKind, shape_text};
use super::merge::{CacheSummary, merge};
use super::part::Part;
use super::writer::CacheWriter;
use crate::npz::NpzFile;
use crate::pictures::Fit;

/// Arrays of a file: the moments of the image, and of its mirror image.
const ARRAYS: [&str; 2] = ["moments", "moments_flip"];
const ENDING: &str = ".npz";
/// Depth of folders, which ends links in a circle.
const MAX_DEPTH: usize = 16;

/// What the files of the published cache do not say.
#[derive(Clone, Debug, PartialEq)]
pub struct NpzImport {
    /// The codec that made them.
    pub codec: CodecRecord,
    /// Number of colour channels.
    pub channels: usize,
    /// Width and height of the pictures in pixels.
    pub size: usize,
    /// Fit of the pictures to the size; the published code crops.
    pub fit: Fit,
    /// Factor of draws from the moments.
    pub latent_scale: f64,
    /// Element type to store, f32 or bf16.
    pub dtype: DType,
}

/// Imports part `part` of the folder `folder` (or its folder `train`) into a cache in the directory `out`: files
/// `CLASS/NAME.npz` with the arrays `moments` and `moments_flip` [2C, h, w], in torchvision's order. Finished shards are
/// kept. A single part is merged, several are by [`merge`](super::merge).
///
/// `outcome` is called for every file with the entry, called `CLASS/NAME`, and what came of it; the file is left out if it
/// turns an error into `Ok`, and an error that it returns ends the import.
///
/// # Errors
/// Those of `outcome`, [`CacheWriter::open`] and [`merge`](super::merge); [`Error::Format`] if there are no class folders,
/// a class without files, or no file with readable moments.
pub fn import_npz(
    folder: impl AsRef<Path>,
    out: impl AsRef<Path>,
    import: &NpzImport,
    part: Part,
    outcome: &mut dyn FnMut(&CacheEntry, Result<()>) -> Result<()>,
) -> Result<Option<CacheSummary>> {
    let train = folder.as_ref().join("train");
    let folder = if train.is_dir() { &train } else { folder.as_ref() };
    let (classes, files) = list(folder)?;
    let spec = CacheSpec {
        images: ImageSpec {
            codec: import.codec.clone(),
            channels: import.channels,
            size: import.size,
            classes,
        },
        fit: import.fit,
        flip: true,
        items: ItemKind::Moments,
        shape: latent_shape(folder, &files)?,
        latent_scale: import.latent_scale,
        dtype: import.dtype,
        shard_entries: CacheSpec::SHARD_ENTRIES,
    };
    let [_, moments @ ..] = spec.stored_shape();
    let entry = |(path, label): &(String, u32)| CacheEntry {
        path: path[..path.len() - ENDING.len()].to_owned(),
        label: *label,
    };
    let writer = CacheWriter::open(&out, spec, files.iter().map(entry).collect(), part)?;
    for shard in writer.unfinished()? {
        let mut rows = writer.begin(shard)?;
        let first = shard * writer.header().spec.shard_entries;
        for (path, _) in &files[first..first + rows.entries().len()] {
            let Some(entry) = rows.expected() else { break };
            match read_moments(&folder.join(path), moments) {
                Ok(values) => {
                    rows.push(&values)?;
                    outcome(entry, Ok(()))?;
                }
                Err(error) => {
                    rows.skip(&error.to_string())?;
                    outcome(entry, Err(error))?;
                }
            }
        }
        rows.finish()?;
    }
    drop(writer);
    if part == Part::WHOLE { merge(out).map(Some) } else { Ok(None) }
}

/// Moments of shape `shape` of an image and of its mirror image, one after the other.
fn read_moments(path: &Path, shape: [usize; 3]) -> Result<Vec<f32>> {
    let mut file = NpzFile::open(path)?;
    let mut out = Vec::new();
    for name in ARRAYS {
        let array = file.array(name)?;
        if array.shape != shape {
            return Err(wrong_shape(path, name, format!("shape {}", shape_text(&shape)), &array.shape));
        }
        out.extend(array.values);
    }
    Ok(out)
}

/// Shape of the latents, from the first file with moments.
fn latent_shape(folder: &Path, files: &[(String, u32)]) -> Result<[usize; 3]> {
    let mut first = None;
    for (path, _) in files {
        let path = folder.join(path);
        let array = NpzFile::open(&path).and_then(|mut file| file.array(ARRAYS[0]));
        let shape = array.and_then(|array| match array.shape[..] {
            [c, h, w] if c % 2 == 0 => Ok([c / 2, h, w]),
            _ => Err(wrong_shape(&path, ARRAYS[0], "shape [2C, h, w]", &array.shape)),
        });
        match shape {
            Ok(shape) => return Ok(shape),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::format(folder, "no npz files")))
}

fn wrong_shape(path: &Path, name: &str, expected: impl Into<String>, shape: &[usize]) -> Error {
    let (path, tensor, got) = (path.to_owned(), name.to_owned(), shape_text(shape));
    Error::Tensor { path, tensor, expected: expected.into(), got }
}

/// Class names, and the files with their classes, in the order of torchvision's `DatasetFolder`: classes by name, in each
/// the folders by path, in each the files by name.
fn list(root: &Path) -> Result<(Vec<String>, Vec<(String, u32)>)> {
    let (mut classes, _) = children(root)?;
    classes.sort();
    if classes.is_empty() {
        return Err(Error::format(root, "expected a folder per class, got none"));
    }
    let mut files = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let mut folders = vec![class.clone()];
        descend(root, class, 0, &mut folders)?;
        folders.sort();
        let before = files.len();
        for folder in folders {
            let (_, mut names) = children(&root.join(&folder))?;
            names.retain(|name| name.to_ascii_lowercase().ends_with(ENDING));
            names.sort();
            files.extend(names.into_iter().map(|name| (format!("{folder}/{name}"), label as u32)));
        }
        if files.len() == before {
            return Err(Error::format(root.join(class), "a class without npz files"));
        }
    }
    Ok((classes, files))
}

fn descend(root: &Path, folder: &str, depth: usize, out: &mut Vec<String>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::format(root.join(folder), format!("folders deeper than {MAX_DEPTH} levels")));
    }
    for name in children(&root.join(folder))?.0 {
        let child = format!("{folder}/{name}");
        out.push(child.clone());
        descend(root, &child, depth + 1, out)?;
    }
    Ok(())
}

/// Names of the folders and of the files in a folder; links are followed.
fn children(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let kind = entry.file_type().map_err(Error::io(entry.path()))?;
        let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
        let name = entry.file_name().into_string();
        let name = name.map_err(|_| Error::format(entry.path(), "a name that is not UTF-8"))?;
        if is_folder { folders.push(name) } else { files.push(name) }
    }
    Ok((folders, files))
}
