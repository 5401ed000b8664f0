//! Operations of the image autoencoder: group normalisation and convolution of images with channels last, [B, H, W, C].
//!
//! The autoencoder is frozen in TransDiff, and only its results are used. These operations are therefore not recorded and
//! have no backward pass.

use super::storage::{Storage, View, ViewMut};
use crate::Result;

/// Sides of a convolution's output in relation to those of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resample {
    /// Equal: K/2 zeros on every side.
    #[default]
    Same,
    /// Doubled: every pixel is repeated 2×2, followed by [`Same`](Self::Same).
    Double,
    /// Halved: stride 2, with K/2 zeros on the right and below, and none on the left and above.
    Halve,
}

/// Arguments of [`ImageOps::conv2d`]. B images of H×W pixels and C channels, O output channels, kernel K×K.
#[derive(Debug)]
pub struct ConvArgs<'a, S: Storage> {
    /// [B, H, W, C], contiguous; H and W are even if they are halved.
    pub x: View<'a, S>,
    /// [K, K, C, O], contiguous; K is 1 or 3.
    pub w: View<'a, S>,
    /// `[O]`, contiguous.
    pub b: View<'a, S>,
    /// Scale and shift of x per image and channel, [B, 2, C] contiguous, of the
    /// [accumulator's](crate::DType::accumulator) type, as [`ImageOps::group_norm`] writes them; and whether SiLU,
    /// x·sigmoid(x), follows.
    pub scale_shift: Option<(View<'a, S>, bool)>,
    /// Added to the result; of its shape, contiguous.
    pub residual: Option<View<'a, S>>,
    /// Sides of the result.
    pub resample: Resample,
}

impl<S: Storage> Clone for ConvArgs<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for ConvArgs<'_, S> {}

/// Operations on images, forward only.
pub trait ImageOps: Storage {
    /// Number of images of `pixels` pixels that fill the device: larger batches take more memory and no less time per
    /// image.
    fn images_at_once(&self, pixels: usize) -> usize;

    /// Group normalisation (Wu and He 2018) as a scale and shift per image and channel: the normalised x, with weight and
    /// bias `[C]` applied, is `scale_shift[b, 0, c]`·x + `scale_shift[b, 1, c]`. Mean and variance are over all pixels
    /// and the channels of a group. x [B, H, W, C] contiguous, with at least one pixel; `groups` divides C; scale_shift
    /// [B, 2, C] contiguous, of the [accumulator's](crate::DType::accumulator) type, as the error of a scale acts on the
    /// whole image.
    fn group_norm(
        &self,
        x: View<'_, Self>,
        affine: (View<'_, Self>, View<'_, Self>),
        groups: usize,
        eps: f64,
        scale_shift: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// y ← b + residual + the cross-correlation of w with the scaled, shifted and resampled x, [B, H', W', O] contiguous.
    /// x is padded with zeros after scale and shift.
    fn conv2d(&self, args: ConvArgs<'_, Self>, y: ViewMut<'_, Self>) -> Result<()>;
}
