//! Counts for memory estimates.

/// Number of elements in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementCount {
    /// Elements whatever the number of images.
    pub fixed: u64,
    /// Elements per image.
    pub per_image: u64,
}

impl ElementCount {
    /// Bytes for `images` images of elements of `size` bytes each; `u64::MAX` if they cannot be counted.
    pub fn bytes(&self, images: u64, size: u64) -> u64 {
        self.per_image.saturating_mul(images).saturating_add(self.fixed).saturating_mul(size)
    }
}
