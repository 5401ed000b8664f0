//! Description of the images that a model makes, as files record it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::patch::PatchCodec;
use super::{CodecInfo, GeneratorInfo, json, metadata_value};
use crate::checkpoint::{WeightFile, is_file_name};
use crate::text::shortened;
use crate::{Error, Result};

/// Characters of text from a file that are quoted in an error.
const QUOTED: usize = 60;

/// Codec of a model's codes, as files record it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodecRecord {
    /// Space-to-depth of patches of this side, in pixels.
    Patch(usize),
    /// A codec's file.
    File {
        /// Name of the file, which lies beside the file that records it.
        name: String,
        /// SHA-256 of its contents, in hexadecimal.
        sha256: String,
    },
}

/// Images that a model was trained on and makes. Together with the codec's file, if it has one, a model's file thus holds
/// all that generation needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The codec between images and codes.
    pub codec: CodecRecord,
    /// Number of colour channels, 1 or 3.
    pub channels: usize,
    /// Width and height in pixels.
    pub size: usize,
    /// Names of the classes by number; empty if they have none.
    #[serde(default)]
    pub classes: Vec<String>,
}

impl ImageSpec {
    /// Metadata key under which files carry the description, as JSON.
    pub const METADATA_KEY: &'static str = "transdiff.images";

    /// The description as an entry of a file's metadata, for [`Model::save_with`](super::Model::save_with).
    pub fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(Self::METADATA_KEY.to_owned(), json(self))])
    }

    /// Reads the description in a model's file, if it has one.
    ///
    /// # Errors
    /// [`Error::Format`] naming the first value that does not go with the model.
    pub(crate) fn read(file: &WeightFile, generator: &GeneratorInfo) -> Result<Option<Self>> {
        if !file.metadata().contains_key(Self::METADATA_KEY) {
            return Ok(None);
        }
        let spec: Self = metadata_value(file.path(), file.metadata(), Self::METADATA_KEY)?;
        let invalid = |e: Error| Error::format(file.path(), format!("{}: {e}", Self::METADATA_KEY));
        spec.check(generator).map_err(invalid)?;
        Ok(Some(spec))
    }

    /// Checks the description against the model whose images it describes.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first value that does not go with the model.
    pub fn check(&self, generator: &GeneratorInfo) -> Result<()> {
        let [code_channels, height, width] = generator.code_shape;
        if ![1, 3].contains(&self.channels) {
            return Err(Error::config("channels", "1 or 3 colour channels", self.channels));
        }
        if height != width || self.size == 0 || !self.size.is_multiple_of(height.max(1)) {
            let expected = format!("a multiple of the side of the model's latents, {height}×{width}");
            return Err(Error::config("size", expected, self.size));
        }
        match &self.codec {
            CodecRecord::Patch(patch) => {
                let codec = PatchCodec::new(*patch, self.channels)?.codec_info();
                if codec.code_channels != code_channels {
                    let (channels, made) = (self.channels, codec.code_channels);
                    let got = format!("{made} of patches of {patch}×{patch} pixels in {channels} colours");
                    let expected = format!("codes of {code_channels} channels, as the model makes");
                    return Err(Error::config("codec", expected, got));
                }
                self.check_size(&codec, height)?;
            }
            CodecRecord::File { name, sha256 } => {
                if !is_file_name(name) {
                    let expected = "the name of a file in the same folder";
                    return Err(Error::config("codec", expected, shortened(name, QUOTED)));
                }
                if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                    let expected = "a SHA-256 of 64 hexadecimal digits";
                    return Err(Error::config("sha256", expected, shortened(sha256, QUOTED)));
                }
            }
        }
        let (names, classes) = (self.classes.len(), generator.classes);
        if names != 0 && names != classes {
            let expected = format!("names of the model's {classes} classes, or none");
            return Err(Error::config("classes", expected, names));
        }
        match self.classes.iter().position(|name| name.trim().is_empty() || name.contains('\0')) {
            Some(class) => {
                let got = format!("'{}' for class {class}", shortened(&self.classes[class], QUOTED));
                Err(Error::config("classes", "names that are not empty, without zero bytes", got))
            }
            None => Ok(()),
        }
    }

    /// Checks the codec that the description records, once it is known.
    ///
    /// # Errors
    /// [`Error::Config`] if its images are others.
    pub(super) fn check_codec(&self, codec: &CodecInfo, code_side: usize) -> Result<()> {
        if codec.image_channels != self.channels {
            let expected = format!("{}, as the codec has", codec.image_channels);
            return Err(Error::config("channels", expected, self.channels));
        }
        self.check_size(codec, code_side)
    }

    fn check_size(&self, codec: &CodecInfo, code_side: usize) -> Result<()> {
        let made = code_side.saturating_mul(codec.downsampling);
        if made == self.size {
            return Ok(());
        }
        let expected = format!("{made}, which latents of side {code_side} decode to");
        Err(Error::config("size", expected, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::transdiff::{Mode, TransDiffConfig};

    fn generator() -> GeneratorInfo {
        let config = TransDiffConfig {
            width: 4,
            heads: 1,
            encoder_blocks: 1,
            decoder_blocks: 1,
            mlp_ratio: 1,
            classes: 2,
            buffer_size: 1,
            feature_tokens: 4,
            latent_channels: 4,
            latent_size: 2,
            mode: Mode::OneStep,
            distilled: false,
        };
        config.generator_info()
    }

    fn spec() -> ImageSpec {
        let classes = ["bag", "boot"].map(String::from).to_vec();
        ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 4, classes }
    }

    fn file(name: &str) -> CodecRecord {
        CodecRecord::File { name: name.to_owned(), sha256: "0".repeat(64) }
    }

    #[test]
    fn descriptions_that_go_with_the_model_are_accepted() {
        for spec in [
            spec(),
            ImageSpec { classes: Vec::new(), ..spec() },
            ImageSpec { codec: file("kl16.ckpt"), channels: 3, size: 32, ..spec() },
        ] {
            spec.check(&generator()).unwrap();
            let back: ImageSpec = serde_json::from_str(&spec.metadata()[ImageSpec::METADATA_KEY]).unwrap();
            assert_eq!(back, spec);
        }
    }

    #[test]
    fn descriptions_of_other_images_are_refused_by_name() {
        let classes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let no_hash = CodecRecord::File { name: "a".into(), sha256: "0".repeat(63) };
        for (spec, message) in [
            (ImageSpec { channels: 2, ..spec() }, "config value channels: expected 1 or 3"),
            (ImageSpec { channels: 3, ..spec() }, "got 12 of patches of 2×2 pixels in 3 colours"),
            (ImageSpec { codec: CodecRecord::Patch(0), ..spec() }, "config value patch"),
            (ImageSpec { codec: CodecRecord::Patch(usize::MAX), ..spec() }, "config value patch"),
            (ImageSpec { size: 8, ..spec() }, "config value size: expected 4"),
            (ImageSpec { size: 0, ..spec() }, "config value size"),
            (ImageSpec { size: 5, codec: file("a"), ..spec() }, "config value size: expected a multiple"),
            (ImageSpec { codec: file("../a"), ..spec() }, "config value codec: expected the name of a file"),
            (ImageSpec { codec: no_hash, ..spec() }, "config value sha256"),
            (
                ImageSpec { classes: classes(&["bag"]), ..spec() },
                "names of the model's 2 classes, or none, got 1",
            ),
            (ImageSpec { classes: classes(&["bag", " "]), ..spec() }, "got ' ' for class 1"),
            (ImageSpec { classes: classes(&["a\0b", "bag"]), ..spec() }, "config value classes"),
        ] {
            let error = spec.check(&generator()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
