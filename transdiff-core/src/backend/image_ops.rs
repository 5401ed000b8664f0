//! What the image autoencoder computes with: group normalisation and convolution, of images whose channels lie
//! side by side, [B, H, W, C].
//!
//! The autoencoder is frozen in TransDiff, and only its results are used. These operations are therefore not on the
//! tape, and have no backward pass.

use super::{Storage, View, ViewMut};
use crate::Result;

/// How the sides of a convolution's output relate to those of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resample {
    /// Equal: K/2 zeros on every side.
    #[default]
    Same,
    /// Doubled: every pixel becomes 2×2, and then as [`Same`](Self::Same).
    Double,
    /// Halved: every second position, with K/2 zeros on the right and below, and none on the left and above.
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
    /// What x is first mapped with: a factor and a summand for every image and channel, [B, 2, C] contiguous, of
    /// the [accumulator's](crate::DType::accumulator) type, as [`ImageOps::group_norm`] gives them. Then x·sigmoid(x) of that, if the flag is set.
    pub map: Option<(View<'a, S>, bool)>,
    /// Added to the result; of its shape, contiguous.
    pub residual: Option<View<'a, S>>,
    /// Which sides the result has.
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
    /// How many images of `pixels` pixels fill the device: more at a time take memory, and each takes no less time.
    fn images_at_once(&self, pixels: usize) -> usize;

    /// Group normalisation (Wu and He 2018), as the map that it makes of every channel: the normalised x, with
    /// weight and bias `[C]` applied, is `map[b, 0, c]`·x + `map[b, 1, c]`. Mean and variance are of all pixels and
    /// the channels of a group. x [B, H, W, C] contiguous, with at least one pixel; `groups` divides C;
    /// map [B, 2, C] contiguous, of the [accumulator's](crate::DType::accumulator) type: one factor acts on a whole
    /// image, and its error with it.
    fn group_norm(
        &self,
        x: View<'_, Self>,
        affine: (View<'_, Self>, View<'_, Self>),
        groups: usize,
        eps: f64,
        map: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// y ← b + residual + the correlation of w with the mapped and resampled x, [B, H', W', O] contiguous. Zeros
    /// around x are zeros after the map.
    fn conv2d(&self, args: ConvArgs<'_, Self>, y: ViewMut<'_, Self>) -> Result<()>;
}
