//! Settings of an evaluation, as its directory and its manifest keep them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transdiff::Error;
use transdiff::checkpoint::{WeightFile, sha256, sha256_of};
use transdiff::datasets::pictures::PictureFiles;
use transdiff::models::{CodecRecord, CodecSource};
use transdiff_terminal::MAX_COUNT;

use super::preset::Preset;
use crate::failure::Result;
use crate::load_hints::{LoadHintArgs, PrecisionArg};
use crate::sampling_args::SamplingArgs;

/// Name of the manifest in the directory of an evaluation.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Smallest and largest number of images per shard. In between, there are enough shards for several processes.
const SHARD_IMAGES: [usize; 2] = [16, 256];
const SHARDS: usize = 16;

/// A file, or a folder of pictures, with its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    pub path: PathBuf,
    /// SHA-256 of the contents in hexadecimal; of a folder, that of a line per picture with its SHA-256 and its path.
    pub sha256: String,
}

impl InputRecord {
    pub fn of(path: &Path) -> transdiff::Result<Self> {
        let sha256 = match path.is_dir() {
            true => folder_sha256(path)?,
            false => sha256(path)?,
        };
        Self::new(path, sha256)
    }

    fn new(path: &Path, sha256: String) -> transdiff::Result<Self> {
        if path.to_str().is_none() {
            return Err(Error::format(path, "expected a path in UTF-8, which a manifest can hold"));
        }
        Ok(Self { path: path.to_owned(), sha256 })
    }

    /// Record of the model in `file`, which may consist of several files.
    pub fn of_model(file: &WeightFile) -> transdiff::Result<Self> {
        let hashes = file.paths().map(sha256).collect::<transdiff::Result<Vec<_>>>()?;
        let sha256 = match hashes.as_slice() {
            [only] => only.clone(),
            several => sha256_of(several.join("\n").as_bytes()),
        };
        Self::new(file.path(), sha256)
    }

    /// Checks that the contents are still those of the record.
    pub fn check(&self, now: &Self) -> Result<()> {
        if now == self {
            return Ok(());
        }
        let (path, expected, got) = (self.path.display(), &self.sha256, &now.sha256);
        Err(format!("{path}: expected the contents of the manifest, SHA-256 {expected}, got {got}").into())
    }
}

fn folder_sha256(folder: &Path) -> transdiff::Result<String> {
    let mut lines = String::new();
    for path in PictureFiles::open(folder)?.paths() {
        let name = path.strip_prefix(folder).unwrap_or(path);
        lines += &format!("{}  {}\n", sha256(path)?, name.display());
    }
    Ok(sha256_of(lines.as_bytes()))
}

/// Everything that determines the figures of the images `I`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings<I> {
    /// Version of this program.
    pub version: String,
    pub images: I,
    pub inception: InputRecord,
    pub reference: InputRecord,
    pub preset: Preset,
}

impl<I> Settings<I> {
    /// The same settings for other images.
    pub fn with_images<J>(self, images: J) -> Settings<J> {
        let Self { version, inception, reference, preset, .. } = self;
        Settings { version, images, inception, reference, preset }
    }
}

/// The images of an evaluation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// Pictures of a folder.
    Folder(InputRecord),
    /// Images of a model.
    Generated(Box<Generated>),
}

/// Everything that determines the images of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generated {
    pub model: InputRecord,
    pub hints: LoadHintArgs,
    pub codec: CodecRecord,
    /// Path of the codec's file, if it was given.
    pub codec_path: Option<PathBuf>,
    /// Number of images in all.
    pub total: usize,
    /// Number of classes, which have equally many images.
    pub classes: usize,
    /// Seed of the first image; the others follow.
    pub seed: u64,
    pub sampling: SamplingArgs,
    pub dtype: PrecisionArg,
}

impl Generated {
    /// The codec, unless the model's file describes it.
    pub fn codec_source(&self) -> Option<CodecSource> {
        match (&self.codec, &self.codec_path) {
            (_, Some(path)) => Some(CodecSource::File(path.clone())),
            (CodecRecord::Patch(side), None) => Some(CodecSource::Patch(*side)),
            (CodecRecord::File { .. }, None) => None,
        }
    }

    fn shard_images(&self) -> usize {
        let [smallest, largest] = SHARD_IMAGES;
        (self.total / SHARDS).clamp(smallest, largest)
    }

    /// Number of shards, the units of resuming and of parts.
    pub fn shards(&self) -> usize {
        self.total.div_ceil(self.shard_images())
    }

    /// Numbers of the images of a shard.
    pub fn shard(&self, number: usize) -> Range<usize> {
        let images = self.shard_images();
        number * images..self.total.min((number + 1) * images)
    }

    /// Class of an image: all images of a class follow one another.
    pub fn class(&self, image: usize) -> usize {
        image / (self.total / self.classes)
    }

    /// Checks the number of images, that each class has equally many, and that the seeds exist.
    pub fn check(&self) -> Result<()> {
        let Self { total, classes, seed, .. } = self;
        if *total > MAX_COUNT {
            return Err(format!("--total: expected at most {MAX_COUNT} images, got {total}").into());
        }
        if *total == 0 || *classes == 0 || !total.is_multiple_of(*classes) {
            let message =
                format!("--total: expected a multiple of the model's {classes} classes, got {total}");
            return Err(message.into());
        }
        match seed.checked_add(*total as u64 - 1) {
            Some(_) => Ok(()),
            None => Err(format!("--seed {seed} --total {total}: the last seed exceeds {}", u64::MAX).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(total: usize, classes: usize) -> Generated {
        let value = serde_json::json!({
            "model": { "path": "m", "sha256": "" }, "hints": {}, "codec": CodecRecord::Patch(4), "codec_path": null,
            "total": total, "classes": classes, "seed": 0, "dtype": "f32",
            "sampling": { "steps": 1, "solver": "euler", "guidance": [], "guidance_interval": [] },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn shards_divide_the_images() {
        for (total, shards) in [(10, 1), (16, 1), (17, 2), (1000, 17), (5_000, 20), (50_000, 196)] {
            let generated = generated(total, 1);
            assert_eq!(generated.shards(), shards, "{total} images");
            let images: Vec<usize> = (0..shards).flat_map(|shard| generated.shard(shard)).collect();
            assert!(images.into_iter().eq(0..total), "{total} images");
        }
    }

    #[test]
    fn classes_have_equally_many_images() {
        let generated = generated(12, 4);
        let classes: Vec<usize> = (0..12).map(|image| generated.class(image)).collect();
        assert_eq!(classes, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
    }
}
