//! Pictures of a folder as they are, without classes and crops: those of an evaluation.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use transdiff_core::data::Dataset;
use transdiff_core::rng::Philox;
use transdiff_core::{Error, Result};

use super::dataset::read_file;
use super::folder::PICTURES;
use super::{Limits, decode};

/// Colour channels.
const CHANNELS: usize = 3;

/// Pictures of one size in a folder and the folders below it, sorted by path, as text: `a-b/1.png` comes before `a/1.png`. An item is the picture in RGB, 8-bit values
/// [height, width, 3] as numbers from 0 to 255.
#[derive(Clone, Debug)]
pub struct PictureFiles {
    paths: Vec<PathBuf>,
    /// Height and width.
    sides: [usize; 2],
    limits: Limits,
    /// Other files in the folders.
    others: Vec<PathBuf>,
}

impl PictureFiles {
    /// Finds the pictures of `folder` by their endings, and reads the size of the first.
    ///
    /// # Errors
    /// [`Error::Format`] if `folder` is no folder, or has no pictures, or the first cannot be decoded; [`Error::Io`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if !fs::metadata(folder).map_err(Error::io(folder))?.is_dir() {
            return Err(Error::format(folder, "expected a folder of pictures, got a file"));
        }
        let mut found =
            Self { paths: Vec::new(), sides: [0; 2], limits: Limits::default(), others: Vec::new() };
        found.add(folder, &mut BTreeSet::new())?;
        for paths in [&mut found.paths, &mut found.others] {
            paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
        }
        let Some(first) = found.paths.first() else {
            let endings = PICTURES.endings.join(" ");
            return Err(Error::format(folder, format!("expected pictures ({endings}), got none")));
        };
        let first = found.decode(first)?;
        found.sides = [first.height(), first.width()];
        Ok(found)
    }

    /// Adds the files of `folder`; `above` are the folders that contain it, to which a link may lead back.
    fn add(&mut self, folder: &Path, above: &mut BTreeSet<PathBuf>) -> Result<()> {
        let real = folder.canonicalize().map_err(Error::io(folder))?;
        if !above.insert(real.clone()) {
            return Err(Error::format(folder, "the link leads to a folder that contains it: remove it"));
        }
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path.is_dir() {
                self.add(&path, above)?;
            } else if PICTURES.includes(&path.file_name().unwrap_or_default().to_string_lossy()) {
                self.paths.push(path);
            } else {
                self.others.push(path);
            }
        }
        above.remove(&real);
        Ok(())
    }

    /// Paths of the pictures.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Files that are no pictures by their endings, and are left out.
    pub fn others(&self) -> &[PathBuf] {
        &self.others
    }

    /// Height and width of every picture.
    pub fn sides(&self) -> [usize; 2] {
        self.sides
    }

    fn decode(&self, path: &Path) -> Result<super::Picture> {
        let mut bytes = Vec::new();
        read_file(path, self.limits.max_bytes, &mut bytes)?;
        decode(path, &bytes, CHANNELS, &self.limits)
    }
}

impl Dataset for PictureFiles {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        let [height, width] = self.sides;
        [height, width, CHANNELS]
    }

    fn label(&self, _: usize) -> usize {
        0
    }

    fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        let path = &self.paths[index];
        let picture = self.decode(path)?;
        let [height, width] = self.sides;
        if [picture.height(), picture.width()] != self.sides {
            let (first, got) = (self.paths[0].display(), format!("{}×{}", picture.width(), picture.height()));
            let message = format!("expected {width}×{height} pixels, the size of {first}, got {got}");
            return Err(Error::format(path, message));
        }
        out.extend(picture.pixels().iter().map(|&byte| f32::from(byte)));
        Ok(())
    }
}
