//! Decoded pictures.

/// Decoded picture: rows of pixels with one (grey) or three (RGB) channels of 8 bits, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of `height` rows of `width` pixels, with 1 (grey) or 3 (RGB) channels.
    ///
    /// # Panics
    /// If a side is 0, the number of channels is another, or `pixels` has not height·width·channels bytes.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "expected a picture with pixels, got {width}×{height}");
        assert!(matches!(channels, 1 | 3), "expected 1 or 3 channels, got {channels}");
        assert_eq!(pixels.len(), width * height * channels, "expected height·width·channels bytes");
        Self { width, height, channels, pixels }
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes per pixel: 1 (grey) or 3 (RGB).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Pixels, row by row: height·width·channels bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Converts to `channels` channels as Pillow's `convert("RGB")` or `convert("L")` does.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3.
    pub fn into_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (from, to) if from == to => self.pixels,
            (1, _) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => self.pixels.chunks_exact(3).map(luma).collect(),
        };
        Self::new(self.width, self.height, channels, pixels)
    }

    /// Appends the picture as an image [channels, height, width] in [-1, 1] to `out`, mirrored left to right if `mirror`
    /// says so.
    pub fn append_image(&self, mirror: bool, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + self.pixels.len(), 0.0);
        let planes = out[start..].chunks_exact_mut(self.width * self.height);
        for (channel, plane) in planes.enumerate() {
            match self.channels {
                1 => write_plane::<1>(&self.pixels, channel, plane),
                _ => write_plane::<3>(&self.pixels, channel, plane),
            }
            if mirror {
                plane.chunks_exact_mut(self.width).for_each(<[f32]>::reverse);
            }
        }
    }
}

simd! {
    /// Writes a channel of pixels in [-1, 1].
    fn write_plane<const CHANNELS: usize>(pixels: &[u8], channel: usize, plane: &mut [f32]) {
        for (value, pixel) in plane.iter_mut().zip(pixels.as_chunks::<CHANNELS>().0) {
            *value = f32::from(pixel[channel]) / 127.5 - 1.0;
        }
    }
}

/// Luma of an RGB pixel (ITU-R 601-2), in Pillow's fixed-point arithmetic.
fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_has_pillows_weights_and_rounding() {
        // Values of Pillow's convert("L").
        for (rgb, expected) in [([10, 20, 30], 18), ([200, 100, 50], 124), ([1, 2, 3], 2), ([255; 3], 255)] {
            let picture = Picture::new(1, 1, 3, rgb.to_vec()).into_channels(1);
            assert_eq!(picture.pixels(), [expected]);
        }
    }

    #[test]
    fn images_are_planes_in_minus_one_to_one() {
        let picture = Picture::new(2, 1, 3, vec![0, 51, 255, 255, 204, 0]);
        let mut out = Vec::new();
        picture.append_image(false, &mut out);
        assert_eq!(out, [-1.0, 1.0, 51.0 / 127.5 - 1.0, 204.0 / 127.5 - 1.0, 1.0, -1.0]);
        out.clear();
        picture.append_image(true, &mut out);
        assert_eq!(out, [1.0, -1.0, 204.0 / 127.5 - 1.0, 51.0 / 127.5 - 1.0, -1.0, 1.0]);
    }
}
