//! Memory of decoding.

use super::VaeConfig;
use crate::models::ElementCount;

impl VaeConfig {
    /// Elements in memory while latents of height and width `latent_size` are decoded, `at_once` images at a time.
    pub fn decoding_elements(&self, latent_size: [usize; 2], at_once: u64) -> ElementCount {
        let [height, width] = latent_size.map(|side| side as u64 * self.downsampling() as u64);
        let channels =
            |level: usize| (self.channels * self.multipliers[level.min(self.multipliers.len() - 1)]) as u64;
        // A level starts on the channels of the coarser one. Its input, a norm, a convolution and the result are held.
        let level = |level: usize| {
            let area = (height >> level).saturating_mul(width >> level);
            area.saturating_mul(4 * channels(level).max(channels(level + 1)))
        };
        let largest = (0..self.multipliers.len()).map(level).max().unwrap_or(0);
        // An image as it is made, joined to the others, and copied to the host.
        ElementCount {
            fixed: largest.saturating_mul(at_once),
            per_image: height.saturating_mul(width).saturating_mul(3 * self.image_channels as u64),
        }
    }
}
