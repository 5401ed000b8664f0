//! Operations on images with channels last, [B, H, W, C]: group normalisation, convolution and pooling.
//!
//! The networks of images, the autoencoder and the one that measures quality, are frozen in TransDiff, and only their results
//! are used. These operations are therefore not recorded and have no backward pass.

use super::storage::{Storage, View, ViewMut};
use crate::Result;

/// The windows of an image that a convolution or a pooling sees: one per pixel of the result. Pairs are of rows and
/// columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Height and width of a window, at least 1.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next, at least 1.
    pub stride: [usize; 2],
    /// Pixels added above and below, and on the left and the right.
    pub padding: [[usize; 2]; 2],
}

impl Windows {
    /// Number of windows along the axis, 0 for rows or 1 for columns, of `side` pixels. `None` if no window fits.
    pub fn count(&self, axis: usize, side: usize) -> Option<usize> {
        let [before, after] = self.padding[axis];
        let padded = side.checked_add(before)?.checked_add(after)?;
        Some(padded.checked_sub(self.kernel[axis])? / self.stride[axis] + 1)
    }
}

/// Arguments of [`ImageOps::conv2d`]. B images of H×W pixels and C channels, O output channels, kernel K×L.
#[derive(Debug)]
pub struct ConvArgs<'a, S: Storage> {
    /// [B, H, W, C], contiguous.
    pub x: View<'a, S>,
    /// [K, L, C, O], contiguous.
    pub w: View<'a, S>,
    /// `[O]`, contiguous.
    pub b: View<'a, S>,
    /// Scale and shift of x per image and channel, [B, 2, C] contiguous, of the
    /// [accumulator's](crate::DType::accumulator) type, as [`ImageOps::group_norm`] writes them; and whether SiLU,
    /// x·sigmoid(x), follows.
    pub scale_shift: Option<(View<'a, S>, bool)>,
    /// Added to the result; of its shape, contiguous.
    pub residual: Option<View<'a, S>>,
    /// Sets negative results to 0, at the end.
    pub relu: bool,
    /// Repeats every pixel 2×2, before padding.
    pub doubled: bool,
    /// Windows of x, which is doubled first if `doubled`; at least one fits. The kernel is K×L.
    pub windows: Windows,
}

impl<S: Storage> Clone for ConvArgs<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for ConvArgs<'_, S> {}

/// Reduction of the pixels of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest value.
    Max,
    /// The mean of the pixels that are not padding.
    Average,
}

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

    /// y ← b + residual + the cross-correlation of w with the scaled, shifted and doubled x, [B, H', W', O] contiguous.
    /// x is padded with zeros after scale and shift.
    fn conv2d(&self, args: ConvArgs<'_, Self>, y: ViewMut<'_, Self>) -> Result<()>;

    /// y ← the maximum or the mean of each window of x, per channel. x [B, H, W, C] and y [B, H', W', C] contiguous. Padding is
    /// never seen: it is smaller than the kernel, so that each window has a pixel.
    fn pool2d(
        &self,
        x: View<'_, Self>,
        pooling: Pooling,
        windows: Windows,
        y: ViewMut<'_, Self>,
    ) -> Result<()>;
}
