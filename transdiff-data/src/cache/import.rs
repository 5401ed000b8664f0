//! Import of the published cache: a folder per class, in it an npz file per picture.

use std::ops::ControlFlow;
use std::path::Path;

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
use crate::pictures::{FileKind, Fit, ImageFolder, OnBroken};

/// Arrays of a file: the moments of the image, and of its mirror image.
const ARRAYS: [&str; 2] = ["moments", "moments_flip"];
const ENDING: &str = ".npz";
const NPZ: FileKind = FileKind { name: "npz files", endings: &[ENDING] };

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
    ImageFolder::holds_instead_of_pictures(folder.as_ref(), &NPZ)
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
    let folder = ImageFolder::open_of(folder.as_ref(), &NPZ)?;
    let spec = CacheSpec {
        images: ImageSpec {
            codec: import.codec.clone(),
            channels: import.channels,
            size: import.size,
            classes: folder.classes().to_vec(),
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
    check_any(&folder, moments)?;
    let entry = |index: usize| {
        let mut path = folder.relative_path(index);
        path.truncate(path.len() - ENDING.len());
        CacheEntry { path, label: folder.label(index) as u32 }
    };
    let writer = CacheWriter::open(&out, spec, (0..folder.len()).map(entry).collect(), part)?;
    let unfinished = writer.unfinished()?;
    let total = writer.part_entries();
    let left: usize = unfinished.iter().map(|&shard| places(writer.header(), shard).len()).sum();
    let mut progress = FillProgress { done: total - left, total, broken: 0 };
    for shard in unfinished {
        let mut rows = writer.begin(shard)?;
        for index in places(writer.header(), shard) {
            match read_moments(&folder.path(index), moments).and_then(|values| rows.push(&values)) {
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

/// Moments of shape `shape` of an image and of its mirror image, one after the other.
fn read_moments(path: &Path, shape: [usize; 3]) -> Result<Vec<f32>> {
    let mut file = NpzFile::open(path)?;
    let mut out = Vec::new();
    for name in ARRAYS {
        let array = file.array::<f32>(name)?;
        if array.shape != shape {
            return Err(wrong_shape(path, name, shape, &array.shape));
        }
        out.extend(array.values);
    }
    Ok(out)
}

/// Checks that one of the files has moments of shape `shape`.
fn check_any(folder: &ImageFolder, shape: [usize; 3]) -> Result<()> {
    let mut first = None;
    for index in 0..folder.len() {
        match read_moments(&folder.path(index), shape) {
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
