//! Rendering of generated images or latents as bitmaps.

use png::ColorType;
use transdiff::HostTensor;
use transdiff::pipeline::{Output, PixelFormat, to_pixels};

use crate::bitmap::{Bitmap, BitmapFormat};
use crate::failure::Result;

/// Content of the PNG files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviewMode {
    /// Images decoded by the codec.
    Images {
        /// Pixels per position along each axis.
        downsampling: usize,
        /// Colour channels, 1 or 3.
        channels: usize,
    },
    /// Latents in grey: the side² channels of a position as side×side pixels.
    Latents {
        /// Pixels per position along each axis.
        side: usize,
    },
}

impl PreviewMode {
    /// Returns the mode for latents with `channels` channels, or `None` unless `channels` is a square.
    pub fn for_latents(channels: usize) -> Option<Self> {
        let side = channels.isqrt();
        (side * side == channels).then_some(Self::Latents { side })
    }

    /// Format of the bitmap of a latent of this shape: channels, rows and columns.
    pub fn format(self, [_, rows, columns]: [usize; 3]) -> BitmapFormat {
        let (scale, color) = match self {
            Self::Images { downsampling, channels } => (downsampling, color_type(channels)),
            Self::Latents { side } => (side, ColorType::Grayscale),
        };
        BitmapFormat { height: scale * rows, width: scale * columns, color }
    }

    /// Renders one bitmap per image of a batch.
    pub fn render(self, output: &Output) -> Result<Vec<Bitmap>> {
        match (self, &output.images) {
            (Self::Images { .. }, Some(images)) => render_images(images),
            (Self::Images { .. }, None) => Ok(Vec::new()),
            (Self::Latents { side }, _) => Ok(render_latents(&output.latents, side)),
        }
    }
}

fn color_type(channels: usize) -> ColorType {
    if channels == 1 { ColorType::Grayscale } else { ColorType::Rgb }
}

/// Renders images [n, c, H, W] in [-1, 1], grey or coloured.
fn render_images(images: &HostTensor) -> Result<Vec<Bitmap>> {
    let (channels, height, width) = (images.shape()[1], images.shape()[2], images.shape()[3]);
    let mut bytes = vec![0; images.data().len()];
    let pixels = if channels == 1 { PixelFormat::Gray8 } else { PixelFormat::Rgb8Hwc };
    to_pixels(images, pixels, &mut bytes)?;
    let format = BitmapFormat { height, width, color: color_type(channels) };
    let bitmap = |bytes: &[u8]| Bitmap { format, bytes: bytes.to_vec() };
    Ok(bytes.chunks_exact(channels * height * width).map(bitmap).collect())
}

/// Renders latents [n, side², h, w]: channel side·dy + dx holds the pixels (side·y + dy, side·x + dx).
fn render_latents(latents: &HostTensor, side: usize) -> Vec<Bitmap> {
    let (h, w) = (latents.shape()[2], latents.shape()[3]);
    let (height, width) = (side * h, side * w);
    let bitmap = |latent: &[f32]| {
        let value = |pixel: usize| {
            let (y, x) = (pixel / width, pixel % width);
            let channel = y % side * side + x % side;
            latent[(channel * h + y / side) * w + x / side]
        };
        let byte = |pixel| ((value(pixel) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
        let format = BitmapFormat { height, width, color: ColorType::Grayscale };
        Bitmap { format, bytes: (0..height * width).map(byte).collect() }
    };
    latents.to_f32().chunks_exact(height * width).map(bitmap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latent_channels_become_pixels() {
        assert_eq!(PreviewMode::for_latents(16), Some(PreviewMode::Latents { side: 4 }));
        assert_eq!([2, 3, 8].map(PreviewMode::for_latents), [None; 3]);
        // Channel c is c/2 - 1 everywhere, except for 2, 3 and -3 in the last channel, which are clamped.
        let mut values: Vec<f32> = (0..16).map(|i| (i / 4) as f32 / 2.0 - 1.0).collect();
        values[13..].copy_from_slice(&[2.0, 3.0, -3.0]);
        let bitmaps = render_latents(&HostTensor::f32(&[1, 4, 2, 2], values).unwrap(), 2);
        let rows = [[0, 64, 0, 64], [128, 191, 128, 255], [0, 64, 0, 64], [128, 255, 128, 0]];
        let format = PreviewMode::Latents { side: 2 }.format([4, 2, 2]);
        assert_eq!((bitmaps.len(), bitmaps[0].format), (1, format));
        assert_eq!((format.height, format.width), (4, 4));
        assert_eq!(bitmaps[0].bytes, rows.concat());
    }
}
