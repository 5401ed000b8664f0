//! Dataset of the pictures of a folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use transdiff_core::data::Dataset;
use transdiff_core::rng::Philox;
use transdiff_core::{Error, Result};

use super::{
    Crop, Fit, ImageFolder, OnBroken, Picture, PictureOptions, Resampler, adm_crop, decode, pad, random_crop,
};

/// Pictures of class folders as images [channels, size, size] in [-1, 1], decoded whenever they are read.
///
/// Of an item's stream the first draw is the flip, whether or not there are flips, and the next ones the place of a random
/// crop.
#[derive(Debug)]
pub struct PictureDataset {
    folder: ImageFolder,
    options: PictureOptions,
    /// Broken pictures found so far, and the causes.
    broken: Mutex<BTreeMap<usize, String>>,
    /// Buffers of threads that are not reading at present.
    scratch: Mutex<Vec<Scratch>>,
}

/// A picture that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPicture {
    /// Path relative to the folder's root.
    pub path: String,
    /// The cause, with the path of the file.
    pub message: String,
}

#[derive(Debug, Default)]
struct Scratch {
    bytes: Vec<u8>,
    resampler: Resampler,
}

impl PictureDataset {
    /// A dataset of the pictures of `folder`.
    ///
    /// # Errors
    /// [`Error::Argument`] for invalid options.
    pub fn new(folder: ImageFolder, options: PictureOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { folder, options, broken: Mutex::default(), scratch: Mutex::default() })
    }

    /// The folder.
    pub fn folder(&self) -> &ImageFolder {
        &self.folder
    }

    /// The options.
    pub fn options(&self) -> &PictureOptions {
        &self.options
    }

    /// Number of broken pictures found so far.
    pub fn broken_count(&self) -> usize {
        lock(&self.broken).len()
    }

    /// Broken pictures found so far, in the order of the folder.
    pub fn broken(&self) -> Vec<BrokenPicture> {
        let broken = lock(&self.broken);
        let named = broken.iter().map(|(&index, message)| BrokenPicture {
            path: self.folder.relative_path(index),
            message: message.clone(),
        });
        named.collect()
    }

    /// Appends picture `index` as an image and its mirror image, [2, channels, size, size], to `out`. A crop is the one of
    /// ADM: nothing is random.
    ///
    /// # Errors
    /// [`Error::Format`] if the picture is broken, also where broken pictures are skipped: there is no substitute.
    /// [`Error::Io`].
    pub fn read_with_mirror(&self, index: usize, out: &mut Vec<f32>) -> Result<()> {
        self.with_scratch(|scratch| {
            let image = self.image(index, scratch, None)?;
            image.append_image(false, out);
            image.append_image(true, out);
            Ok(())
        })
    }

    fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
        let out = f(&mut scratch);
        lock(&self.scratch).push(scratch);
        out
    }

    /// Picture `index` as a square. A random crop is drawn from `stream`; without one, the crop is that of ADM. A broken
    /// picture is recorded.
    fn image(&self, index: usize, scratch: &mut Scratch, stream: Option<&mut Philox>) -> Result<Picture> {
        let PictureOptions { size, channels, fit, limits, .. } = &self.options;
        let path = self.folder.path(index);
        let image = read_file(&path, limits.max_bytes, &mut scratch.bytes).and_then(|()| {
            let picture = decode(&path, &scratch.bytes, *channels, limits)?;
            match (fit, stream) {
                (Fit::Pad, _) => Ok(pad(&mut scratch.resampler, &picture, *size)),
                (Fit::Crop, Some(stream)) => Ok(random_crop(&mut scratch.resampler, &picture, *size, stream)),
                (Fit::Crop, None) => adm_crop(&mut scratch.resampler, &picture, *size, limits)
                    .map_err(|cause| Error::format(&path, cause)),
            }
        });
        if let Err(error) = &image
            && is_broken(error)
        {
            lock(&self.broken).entry(index).or_insert_with(|| error.to_string());
        }
        image
    }

    /// Picture `index`, or in place of a broken one the next one of the same class that is not, and whether it is mirrored.
    fn drawn_image(
        &self,
        index: usize,
        scratch: &mut Scratch,
        stream: &mut Philox,
    ) -> Result<(Picture, bool)> {
        let mirror = stream.uniform() < 0.5 && self.options.flip;
        let class = self.folder.class_range(self.folder.label(index));
        let mut last = None;
        for candidate in (index..class.end).chain(class.start..index) {
            if self.options.on_broken == OnBroken::Skip && lock(&self.broken).contains_key(&candidate) {
                continue;
            }
            let stream = (self.options.crop == Crop::Random).then_some(&mut *stream);
            match self.image(candidate, scratch, stream) {
                Ok(image) => return Ok((image, mirror)),
                Err(error) if self.options.on_broken == OnBroken::Skip && is_broken(&error) => {
                    last = Some(error)
                }
                Err(error) => return Err(error),
            }
        }
        let count = class.len();
        let path = self.folder.root().join(&self.folder.classes()[self.folder.label(index)]);
        let cause = last.map(|error| format!("; the last: {error}")).unwrap_or_default();
        Err(Error::format(path, format!("none of the {count} pictures of this class can be decoded{cause}")))
    }
}

impl Dataset for PictureDataset {
    fn len(&self) -> usize {
        self.folder.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        [self.options.channels, self.options.size, self.options.size]
    }

    fn label(&self, index: usize) -> usize {
        self.folder.label(index)
    }

    fn read(&self, index: usize, stream: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        self.with_scratch(|scratch| {
            let (image, mirror) = self.drawn_image(index, scratch, stream)?;
            image.append_image(mirror, out);
            Ok(())
        })
    }
}

/// Returns whether an error is one of the picture, and not of the disk, which would make every picture a broken one.
fn is_broken(error: &Error) -> bool {
    match error {
        Error::Format { .. } => true,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Reads a file of at most `limit` bytes into `bytes`.
pub(super) fn read_file(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    // Opening a named pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::format(path, "expected a picture, got something other than a file"));
    }
    let mut file = File::open(path).map_err(Error::io(path))?.take(limit.saturating_add(1));
    let len = file.read_to_end(bytes).map_err(Error::io(path))?;
    if len as u64 > limit {
        return Err(Error::format(
            path,
            format!("expected a picture of at most {limit} bytes, got a larger file"),
        ));
    }
    Ok(())
}

/// Locks; what these mutexes hold is valid after a panic of another thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
