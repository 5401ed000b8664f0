//! Import of the published cache: a folder per class, in it an npz file per picture.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::{DType, Error, Result};

use super::FillProgress;
use super::entries::CacheEntry;
use super::header::{CacheSpec, ItemKind, shape_text};
use super::merge::{CacheSummary, merge};
use super::part::Part;
use super::shard::places;
use super::writer::CacheWriter;
use crate::npz::NpzFile;
use crate::pictures::{Fit, OnBroken, is_picture};

/// Arrays of a file: the moments of the image, and of its mirror image.
const ARRAYS: [&str; 2] = ["moments", "moments_flip"];
const ENDING: &str = ".npz";
/// Depth of folders, which ends links in a circle.
const MAX_DEPTH: usize = 16;

/// Properties of a published cache that its files do not tell.
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
    /// Shape [C, h, w] of the codec's latents of such pictures.
    pub shape: [usize; 3],
    /// Factor of draws from the moments.
    pub latent_scale: f64,
    /// Element type to store, f32 or bf16.
    pub dtype: DType,
    /// Reaction to a file without readable moments of that shape.
    pub on_broken: OnBroken,
}

/// Returns whether the folder `folder` (or its folder `train`) is a published cache: its first class folder holds npz files,
/// and no pictures.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a name that is not UTF-8.
pub fn is_npz_folder(folder: impl AsRef<Path>) -> Result<bool> {
    let root = class_root(folder.as_ref())?;
    let (mut classes, _) = children(&root)?;
    classes.sort();
    let Some(class) = classes.into_iter().next() else { return Ok(false) };
    let mut found = false;
    for folder in folders_of(&root, &class)? {
        let (_, names) = children(&root.join(folder))?;
        if names.iter().any(|name| is_picture(name)) {
            return Ok(false);
        }
        found |= names.iter().any(|name| is_npz(name));
    }
    Ok(found)
}

/// Imports part `part` of the folder `folder` (or its folder `train`) into a cache in the directory `out`: files
/// `CLASS/NAME.npz` with the arrays `moments` and `moments_flip` [2C, h, w], in torchvision's order; an entry is called
/// `CLASS/NAME`. Finished shards are kept. A single part is merged, several are by [`merge`](super::merge).
///
/// `observer` is called after every file and may cancel.
///
/// # Errors
/// Those of [`CacheWriter::open`] and [`merge`](super::merge); [`Error::Format`] if there are no class folders or a class
/// without files; that of the first file if none has moments of the shape, and that of a broken file unless they are left
/// out; [`Error::Cancelled`].
pub fn import_npz(
    folder: impl AsRef<Path>,
    out: impl AsRef<Path>,
    import: &NpzImport,
    part: Part,
    observer: &mut dyn FnMut(&FillProgress) -> ControlFlow<()>,
) -> Result<Option<CacheSummary>> {
    let folder = &class_root(folder.as_ref())?;
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
        shape: import.shape,
        latent_scale: import.latent_scale,
        dtype: import.dtype,
        shard_entries: CacheSpec::SHARD_ENTRIES,
    };
    let [_, moments @ ..] = spec.stored_shape();
    // Without it, a folder for another size or codec would become an empty cache where broken files are left out.
    check_any(folder, &files, moments)?;
    let entry = |file: &CacheEntry| {
        let name = &file.path[..file.path.len() - ENDING.len()];
        CacheEntry { path: name.to_owned(), label: file.label }
    };
    let writer = CacheWriter::open(&out, spec, files.iter().map(entry).collect(), part)?;
    let unfinished = writer.unfinished()?;
    let total = writer.part_entries();
    let left: usize = unfinished.iter().map(|&shard| places(writer.header(), shard).len()).sum();
    let mut progress = FillProgress { done: total - left, total, broken: 0 };
    for shard in unfinished {
        let mut rows = writer.begin(shard)?;
        for file in &files[places(writer.header(), shard)] {
            match read_moments(&folder.join(&file.path), moments).and_then(|values| rows.push(&values)) {
                Ok(()) => {}
                Err(error) if import.on_broken == OnBroken::Stop => return Err(error),
                Err(error) => {
                    progress.broken += 1;
                    rows.skip(&error.to_string())?;
                }
            }
            progress.done += 1;
            if observer(&progress).is_break() {
                return Err(Error::Cancelled);
            }
        }
        rows.finish()?;
    }
    drop(writer);
    if part == Part::WHOLE { merge(out).map(Some) } else { Ok(None) }
}

/// The folder that holds the class folders: `root`, or its folder `train` if that holds folders and no npz files.
fn class_root(root: &Path) -> Result<PathBuf> {
    let train = root.join("train");
    if train.is_dir() {
        let (folders, files) = children(&train)?;
        if !folders.is_empty() && !files.iter().any(|name| is_npz(name)) {
            return Ok(train);
        }
    }
    Ok(root.to_owned())
}

fn is_npz(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(ENDING)
}

/// Moments of shape `shape` of an image and of its mirror image, one after the other.
fn read_moments(path: &Path, shape: [usize; 3]) -> Result<Vec<f32>> {
    let mut file = NpzFile::open(path)?;
    let mut out = Vec::new();
    for name in ARRAYS {
        let array = file.array(name)?;
        if array.shape != shape {
            return Err(wrong_shape(path, name, shape, &array.shape));
        }
        out.extend(array.values);
    }
    Ok(out)
}

/// Checks that one of `files` has moments of shape `shape`.
fn check_any(folder: &Path, files: &[CacheEntry], shape: [usize; 3]) -> Result<()> {
    let mut first = None;
    for file in files {
        match read_moments(&folder.join(&file.path), shape) {
            Ok(_) => return Ok(()),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    first.map_or(Ok(()), Err)
}

fn wrong_shape(path: &Path, name: &str, expected: [usize; 3], shape: &[usize]) -> Error {
    let (path, tensor, got) = (path.to_owned(), name.to_owned(), shape_text(shape));
    Error::Tensor { path, tensor, expected: format!("shape {}", shape_text(&expected)), got }
}

/// Class names, and the files, with their endings, in the order of torchvision's `DatasetFolder`: classes by name, in each
/// the folders by path, in each the files by name.
fn list(root: &Path) -> Result<(Vec<String>, Vec<CacheEntry>)> {
    let (mut classes, _) = children(root)?;
    classes.sort();
    if classes.is_empty() {
        return Err(Error::format(root, "expected a folder per class, got none"));
    }
    let mut files = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let before = files.len();
        for folder in folders_of(root, class)? {
            let (_, mut names) = children(&root.join(&folder))?;
            names.retain(|name| is_npz(name));
            names.sort();
            let file = |name: String| CacheEntry { path: format!("{folder}/{name}"), label: label as u32 };
            files.extend(names.into_iter().map(file));
        }
        if files.len() == before {
            return Err(Error::format(root.join(class), "a class without npz files"));
        }
    }
    Ok((classes, files))
}

/// The folder of class `class` and those within it, sorted by path.
fn folders_of(root: &Path, class: &str) -> Result<Vec<String>> {
    let mut folders = vec![class.to_owned()];
    descend(root, class, 0, &mut folders)?;
    folders.sort();
    Ok(folders)
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
