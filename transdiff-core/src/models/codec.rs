//! Codecs: from codes to pixels and back.

use std::fmt::Debug;

use crate::{Backend, CancellationToken, Result, Tensor};

/// Description of a codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecInfo {
    /// Name of the codec.
    pub codec: &'static str,
    /// Channels of an image.
    pub image_channels: usize,
    /// Channels C of the codes.
    pub code_channels: usize,
    /// Pixels per position of the codes, along each side.
    pub downsampling: usize,
}

/// A codec, immutable and shared by any number of callers. Codes are in the scale of the models, images in [-1, 1].
pub trait Codec<B: Backend>: Debug + Send + Sync {
    /// Description of the codec.
    fn info(&self) -> CodecInfo;

    /// Number of parameters, in elements.
    fn param_count(&self) -> usize;

    /// Codes [n, C, h, w] of images [n, 3, H, W], whose sides are multiples of
    /// [`downsampling`](CodecInfo::downsampling). Where codes are random, `seeds`, one per image, draw them; without
    /// seeds they are the mean.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for other images; [`Error::Argument`](crate::Error::Argument) for a wrong
    /// number of seeds; [`Error::Cancelled`](crate::Error::Cancelled); [`Error::NonFinite`](crate::Error::NonFinite) if
    /// the result holds a NaN or an infinity.
    fn encode_images(
        &self,
        images: &Tensor<B>,
        seeds: Option<&[u64]>,
        token: &CancellationToken,
    ) -> Result<Tensor<B>>;

    /// Images [n, 3, H, W], about in [-1, 1], of codes [n, C, h, w].
    ///
    /// # Errors
    /// As [`encode_images`](Self::encode_images).
    fn decode_codes(&self, codes: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>>;
}
