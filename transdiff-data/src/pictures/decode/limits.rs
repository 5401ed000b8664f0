//! Limits on pictures.

/// Limits on the size of a picture and on the memory for decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of pixels. The default is the number above which Pillow reports a decompression bomb.
    pub max_pixels: u64,
    /// Largest size of a decoded picture in bytes, and of the buffers for decoding it.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_bytes: 2 << 30 }
    }
}

impl Limits {
    /// Checks the dimensions of a picture whose decoding takes `bytes_per_pixel`.
    pub fn check(&self, width: usize, height: usize, bytes_per_pixel: u64) -> Result<(), String> {
        if width == 0 || height == 0 {
            return Err(format!("expected a picture with pixels, got {width}×{height}"));
        }
        let pixels = width as u64 * height as u64;
        if pixels > self.max_pixels {
            return Err(format!("expected at most {} pixels, got {width}×{height}", self.max_pixels));
        }
        if pixels.saturating_mul(bytes_per_pixel) > self.max_bytes {
            return Err(format!(
                "decoding {width}×{height} pixels takes more than the limit of {} bytes",
                self.max_bytes
            ));
        }
        Ok(())
    }
}
