//! Codecs as users give them, and as files record them.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::patch::PatchCodec;
use super::{Codec, CodecInfo, CodecRecord, ElementCount, ImageSpec, StoredCodec, StoredModel};
use crate::checkpoint::{WeightFile, WeightView, sha256};
use crate::{Backend, DType, Error, Result};

/// Prefix of the text of a codec of patches.
const PATCH: &str = "patch:";

/// A codec as users give it: `patch:N`, or the path of a codec's file. (A file whose name begins with `patch:` is given as
/// `./patch:…`.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecSource {
    /// Space-to-depth of patches of this side, in pixels.
    Patch(usize),
    /// The codec in a file.
    File(PathBuf),
}

impl FromStr for CodecSource {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] naming the argument `codec`.
    fn from_str(text: &str) -> Result<Self> {
        let expected = "patch:N with N from 1 to 256, or the path of a codec's file";
        match text.strip_prefix(PATCH) {
            Some(side) => {
                let patch = side.parse().ok().filter(|&patch| PatchCodec::new(patch, 1).is_ok());
                patch.map(Self::Patch).ok_or_else(|| Error::argument("codec", expected, text))
            }
            None if text.is_empty() => Err(Error::argument("codec", expected, "nothing")),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl TryFrom<&Path> for CodecSource {
    type Error = Error;

    /// As [`from_str`](Self::from_str), for any path.
    fn try_from(path: &Path) -> Result<Self> {
        path.to_str().map_or_else(|| Ok(Self::File(path.to_owned())), str::parse)
    }
}

impl fmt::Display for CodecSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patch(patch) => write!(f, "{PATCH}{patch}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl CodecSource {
    /// Opens the codec for images of `channels` colour channels.
    ///
    /// # Errors
    /// [`Error::Argument`] for a codec of images with another number of channels, and for a file that is missing; those of
    /// [`WeightFile::open`] and [`StoredCodec::find`].
    pub fn open(&self, channels: usize) -> Result<CodecFile> {
        let codec = match self {
            Self::Patch(patch) => CodecFile::Patch(PatchCodec::new(*patch, channels)?),
            Self::File(path) => CodecFile::Stored(open(path)?),
        };
        let made = codec.info()?.image_channels;
        if made != channels {
            let expected = format!("a codec of images of {channels} colour channels");
            return Err(Error::argument("codec", expected, format!("{made} for {self}")));
        }
        Ok(codec)
    }

    /// Opens the codec for codes of `code_channels` channels.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for_codes(&self, code_channels: usize) -> Result<CodecFile> {
        let codec = match self {
            Self::Patch(patch) => {
                let found = PatchCodec::for_codes(*patch, code_channels);
                CodecFile::Patch(found.map_err(|e| self.other_codes(code_channels, &e))?)
            }
            Self::File(path) => CodecFile::Stored(open(path)?),
        };
        let decoded = codec.info()?.code_channels;
        if decoded == code_channels { Ok(codec) } else { Err(self.other_codes(code_channels, decoded)) }
    }

    fn other_codes(&self, code_channels: usize, got: impl fmt::Display) -> Error {
        let got = match self {
            Self::Patch(patch) => {
                format!("{self}, for latents of {} or {}", patch * patch, 3 * patch * patch)
            }
            Self::File(path) => format!("{got} for {}", path.display()),
        };
        Error::argument("codec", format!("a codec for latents of {code_channels} channels"), got)
    }
}

/// Opens a codec's file; a missing one is an error of the argument.
fn open(path: &Path) -> Result<WeightFile> {
    WeightFile::open(path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            let got = format!("{}, which does not exist", path.display());
            Error::argument("codec", "patch:N or the path of a codec's file", got)
        }
        other => other,
    })
}

/// A codec that can be loaded: without a file, or with its file opened.
#[derive(Debug)]
pub enum CodecFile {
    /// Space-to-depth, which has no file.
    Patch(PatchCodec),
    /// A file in which [`StoredCodec::find`] finds the codec.
    Stored(WeightFile),
}

impl From<WeightFile> for CodecFile {
    fn from(file: WeightFile) -> Self {
        Self::Stored(file)
    }
}

impl CodecFile {
    /// Opens the codec that the file `file` of `model` describes, if it describes one. A codec's file lies beside it.
    ///
    /// # Errors
    /// [`Error::Format`] naming the codec's file if it is missing or not the one that the model was trained with, and
    /// naming the first value of the description that does not go with the codec; those of [`WeightFile::open`] and
    /// [`StoredCodec::find`].
    pub fn described(file: &WeightFile, model: &StoredModel<'_>) -> Result<Option<Self>> {
        let Some(images) = model.images() else { return Ok(None) };
        let codec = Self::recorded(&images.codec, images.channels, file)?;
        let [_, side, _] = model.info().code_shape;
        let invalid = |e| Error::format(file.path(), format!("{}: {e}", ImageSpec::METADATA_KEY));
        images.check_codec(&codec.info()?, side).map_err(invalid)?;
        Ok(Some(codec))
    }

    /// Opens the codec that the model's file `model` records; a codec's file lies beside it.
    ///
    /// # Errors
    /// [`Error::Format`] naming the codec's file if it is missing or another than the recorded one; those of
    /// [`PatchCodec::new`], [`WeightFile::open`] and [`StoredCodec::find`].
    fn recorded(record: &CodecRecord, channels: usize, model: &WeightFile) -> Result<Self> {
        let (name, recorded) = match record {
            CodecRecord::Patch(patch) => return PatchCodec::new(*patch, channels).map(Self::Patch),
            CodecRecord::File { name, sha256 } => (name, sha256),
        };
        let missing = |found: &str| {
            let remedy = "put it there, or give a codec, or none to make latents only";
            Error::format(model.path(), format!("its codec's file {name} is {found}: {remedy}"))
        };
        if model.is_in_memory() {
            return Err(missing("not beside it, because it is in memory"));
        }
        let path = model.path().with_file_name(name);
        let file = WeightFile::open(&path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => missing("not beside it"),
            other => other,
        })?;
        let found = sha256(&path)?;
        if !found.eq_ignore_ascii_case(recorded) {
            let model = model.path().display();
            let message = format!(
                "not the codec that {model} was trained with: expected SHA-256 {recorded}, got {found}"
            );
            return Err(Error::format(path, message));
        }
        Ok(Self::Stored(file))
    }

    /// Description of the codec.
    ///
    /// # Errors
    /// Those of [`StoredCodec::find`].
    pub fn info(&self) -> Result<CodecInfo> {
        match self {
            Self::Patch(codec) => Ok(codec.codec_info()),
            Self::Stored(file) => Ok(StoredCodec::find(file)?.info()),
        }
    }

    /// Record of the codec, for the files of models that make its codes.
    ///
    /// # Errors
    /// [`Error::Format`] for a codec in several files; [`Error::Io`] if the system cannot read the file.
    pub fn record(&self) -> Result<CodecRecord> {
        let file = match self {
            Self::Patch(codec) => return Ok(CodecRecord::Patch(codec.patch())),
            Self::Stored(file) => file,
        };
        let (path, several) = (file.path(), file.paths().count() > 1);
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if !several => Ok(CodecRecord::File { name: name.to_owned(), sha256: sha256(path)? }),
            _ if several => {
                Err(Error::format(path, "a codec in several files: convert it to one file first"))
            }
            _ => Err(Error::format(path, "expected a name of the codec's file in UTF-8")),
        }
    }

    /// Paths of the files that are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let file = match self {
            Self::Patch(_) => None,
            Self::Stored(file) => Some(file),
        };
        file.into_iter().flat_map(WeightFile::paths)
    }

    /// Tensors of the codec, under the names of its parameters; none if it has no parameters.
    ///
    /// # Errors
    /// Those of [`StoredCodec::find`].
    pub fn tensors(&self) -> Result<Option<WeightView<'_>>> {
        match self {
            Self::Patch(_) => Ok(None),
            Self::Stored(file) => Ok(Some(StoredCodec::find(file)?.tensors().clone())),
        }
    }

    /// Elements in memory while codes of `code_size` are decoded, `at_once` images at a time.
    ///
    /// # Errors
    /// Those of [`StoredCodec::find`].
    pub fn decoding_elements(&self, code_size: [usize; 2], at_once: u64) -> Result<ElementCount> {
        match self {
            Self::Patch(codec) => Ok(codec.decoding_elements(code_size)),
            Self::Stored(file) => Ok(StoredCodec::find(file)?.decoding_elements(code_size, at_once)),
        }
    }

    /// Reads the weights, if there are any, in the type `dtype`.
    ///
    /// # Errors
    /// Those of [`StoredCodec::find`] and [`StoredCodec::load`].
    pub fn load<B: Backend>(&self, backend: &B, dtype: DType) -> Result<Box<dyn Codec<B>>> {
        match self {
            Self::Patch(codec) => Ok(Box::new(*codec)),
            Self::Stored(file) => StoredCodec::find(file)?.load(backend, dtype),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;
    use crate::models::vae::{Vae, VaeConfig};
    use crate::reference::Reference;

    fn vae(path: &Path) {
        let config = VaeConfig {
            image_channels: 3,
            latent_channels: 2,
            channels: 32,
            multipliers: vec![1, 1],
            res_blocks: 1,
            attention: vec![],
        };
        Vae::new(&Reference, &config, DType::F32, 5).unwrap().save(path).unwrap();
    }

    #[test]
    fn text_is_a_patch_size_or_a_path() {
        let parsed = |text: &str| text.parse::<CodecSource>();
        assert_eq!(parsed("patch:4").unwrap(), CodecSource::Patch(4));
        for path in ["kl16.ckpt", "./patch:4", "a/patch:x", "patch"] {
            let source = parsed(path).unwrap();
            assert_eq!((&source, source.to_string()), (&CodecSource::File(path.into()), path.to_owned()));
        }
        for text in ["patch:0", "patch:x", "patch:", "patch:-1", "patch:4.0", "patch:257", "patch: 4"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("argument codec: expected patch:N") && error.ends_with(text), "{error}");
        }
        assert!(parsed("").unwrap_err().to_string().ends_with("got nothing"));
    }

    #[test]
    fn codecs_of_other_images_or_codes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vae");
        let source = CodecSource::File(path.clone());
        let missing = source.open(3).unwrap_err().to_string();
        assert!(
            missing.contains("argument codec") && missing.ends_with("vae, which does not exist"),
            "{missing}"
        );
        vae(&path);
        assert_eq!(source.open(3).unwrap().info().unwrap().latent_scale, Some(0.2325));
        let error = source.open(1).unwrap_err().to_string();
        assert!(error.contains("images of 1 colour channels, got 3"), "{error}");
        assert!(source.open_for_codes(2).is_ok());
        let error = source.open_for_codes(4).unwrap_err().to_string();
        assert!(error.contains("latents of 4 channels, got 2 for "), "{error}");
        let patch = CodecSource::Patch(2);
        let channels =
            [4, 12].map(|codes| patch.open_for_codes(codes).unwrap().info().unwrap().image_channels);
        assert_eq!(channels, [1, 3]);
        let error = patch.open_for_codes(16).unwrap_err().to_string();
        assert!(error.contains("latents of 16 channels, got patch:2, for latents of 4 or 12"), "{error}");
    }

    #[test]
    fn records_find_the_codec_beside_the_model_by_its_contents() {
        let folder = tempfile::tempdir().unwrap();
        let [model, path] = ["model", "vae"].map(|name| folder.path().join(name));
        vae(&model);
        vae(&path);
        let model = WeightFile::open(model).unwrap();
        let record = CodecSource::File(path.clone()).open(3).unwrap().record().unwrap();
        let CodecRecord::File { name, sha256: recorded } = &record else { panic!("a file") };
        assert_eq!((name.as_str(), recorded), ("vae", &sha256(&path).unwrap()));
        assert_eq!(CodecFile::recorded(&record, 3, &model).unwrap().info().unwrap().code_channels, 2);
        let patch = CodecSource::Patch(2).open(1).unwrap().record().unwrap();
        assert_eq!(patch, CodecRecord::Patch(2));
        assert_eq!(CodecFile::recorded(&patch, 1, &model).unwrap().info().unwrap().code_channels, 4);

        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let in_memory = WeightFile::from_bytes(model.path(), std::fs::read(model.path()).unwrap()).unwrap();
        let error = CodecFile::recorded(&record, 3, &in_memory).unwrap_err().to_string();
        assert!(error.contains("not beside it, because it is in memory"), "{error}");
        let error = CodecFile::recorded(&record, 3, &model).unwrap_err().to_string();
        assert!(error.contains("vae: not the codec that") && error.contains(recorded), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = CodecFile::recorded(&record, 3, &model).unwrap_err().to_string();
        assert!(error.contains("model: its codec's file vae is not beside it"), "{error}");
    }
}
