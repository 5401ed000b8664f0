//! Codecs: from codes to pixels and back.

use std::fmt::Debug;

use crate::{Backend, CancellationToken, Error, Result, Tensor};

/// Description of a codec.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecInfo {
    /// Name of the codec.
    pub codec: &'static str,
    /// Channels of an image: 1 or 3.
    pub image_channels: usize,
    /// Channels C of the codes.
    pub code_channels: usize,
    /// Pixels per position of the codes, along each side.
    pub downsampling: usize,
    /// Factor between samples of the posterior and codes, if codes have a posterior. Without one, the codes of an image
    /// are a function of it.
    pub latent_scale: Option<f64>,
}

/// The codes of images, or the distributions that they are drawn from.
#[derive(Clone, Debug)]
pub enum Encoded<B: Backend> {
    /// Codes [n, C, h, w], in the scale of the models.
    Codes(Tensor<B>),
    /// Moments [n, 2C, h, w] of normal distributions: C channels of means, then C of log-variances, as
    /// [`Posterior::new`](super::vae::Posterior::new) takes them. Samples times the
    /// [`latent_scale`](CodecInfo::latent_scale) are codes.
    Moments(Tensor<B>),
}

/// A codec, immutable and shared by any number of callers. Codes are in the scale of the models, images in [-1, 1].
pub trait Codec<B: Backend>: Debug + Send + Sync {
    /// Description of the codec.
    fn info(&self) -> CodecInfo;

    /// Number of parameters, in elements.
    fn param_count(&self) -> usize;

    /// Codes [n, C, h, w] of images [n, c, H, W], whose sides are multiples of
    /// [`downsampling`](CodecInfo::downsampling), c being [`image_channels`](CodecInfo::image_channels). Where codes have
    /// a posterior, `seeds`, one per image, draw them; without seeds they are the mean.
    ///
    /// # Errors
    /// [`Error::Shape`] for other images; [`Error::Argument`] for a wrong number of seeds; [`Error::Cancelled`];
    /// [`Error::NonFinite`] if the result holds a NaN or an infinity.
    fn encode_images(
        &self,
        images: &Tensor<B>,
        seeds: Option<&[u64]>,
        token: &CancellationToken,
    ) -> Result<Tensor<B>>;

    /// Everything that codes of images [n, c, H, W] can be drawn from later: the moments where codes have a posterior, or
    /// else the codes.
    ///
    /// # Errors
    /// As [`encode_images`](Self::encode_images).
    fn encode_moments(&self, images: &Tensor<B>, token: &CancellationToken) -> Result<Encoded<B>> {
        self.encode_images(images, None, token).map(Encoded::Codes)
    }

    /// Images [n, c, H, W], about in [-1, 1], of codes [n, C, h, w].
    ///
    /// # Errors
    /// As [`encode_images`](Self::encode_images).
    fn decode_codes(&self, codes: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>>;
}

/// Checks that there is one seed per image.
pub(super) fn check_seeds(seeds: &[u64], images: usize) -> Result<()> {
    match seeds.len() == images {
        true => Ok(()),
        false => Err(Error::argument("seeds", format!("{images}, one per image"), seeds.len())),
    }
}
