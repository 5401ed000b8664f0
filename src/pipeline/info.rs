//! Description of a pipeline.

use crate::models::{ClassNames, CodecInfo, GeneratorInfo, ImageSpec, WeightSet};
use crate::{Error, Precision, Result};

/// Description of a pipeline.
#[derive(Clone, Debug)]
pub struct Info {
    /// The model.
    pub generator: GeneratorInfo,
    /// The codec, if there is one.
    pub codec: Option<CodecInfo>,
    /// The images that the model was trained on, if its file describes them. A codec that was given in place of the
    /// described one may make others.
    pub images: Option<ImageSpec>,
    /// Names of the classes.
    pub class_names: ClassNames,
    /// Set of weights that was taken of the model's file.
    pub weights: WeightSet,
    /// Name of the device, for display.
    pub device: String,
    /// Number format that the model computes in; the codec computes in its type of tensors.
    pub precision: Precision,
    /// Number of parameters of the model, in elements.
    pub param_count: usize,
    /// Number of parameters of the codec, in elements; 0 without a codec.
    pub codec_param_count: usize,
}

impl Info {
    /// Height and width of the images in pixels, if there is a codec.
    pub fn image_size(&self) -> Option<[usize; 2]> {
        let [_, height, width] = self.generator.code_shape;
        self.codec.as_ref().map(|codec| [height, width].map(|side| side * codec.downsampling))
    }

    /// Colour channels of the images, 1 or 3, if there is a codec.
    pub fn image_channels(&self) -> Option<usize> {
        self.codec.as_ref().map(|codec| codec.image_channels)
    }

    /// Height and width of the images in pixels.
    ///
    /// # Errors
    /// [`Error::Argument`] without a codec.
    pub fn require_image_size(&self) -> Result<[usize; 2]> {
        self.image_size().ok_or_else(no_codec)
    }
}

pub(super) fn no_codec() -> Error {
    Error::argument("images", "a loaded codec (without one, only latents are available)", "none")
}

/// Checks that the codec decodes the model's codes, to grey or coloured images.
///
/// # Errors
/// [`Error::Config`] naming the number of channels that does not match.
pub(super) fn check_match(generator: &GeneratorInfo, codec: &CodecInfo) -> Result<()> {
    if ![1, 3].contains(&codec.image_channels) {
        return Err(Error::config("image_channels", "1 or 3", codec.image_channels));
    }
    let ([made, ..], decoded) = (generator.code_shape, codec.code_channels);
    if made == decoded {
        return Ok(());
    }
    Err(Error::config("latent_channels", format!("{decoded}, as the codec has"), made))
}
