//! Fashion-MNIST in memory, as training data.

use std::path::Path;

use transdiff::checkpoint::sha256_of;
use transdiff::data::Dataset;
use transdiff::rng::Philox;

use crate::idx::{IdxItems, find};

/// Names of the classes, by label.
pub use crate::idx::CLASSES;

/// Grey pictures of 8 bits and their labels.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// Width and height of a picture.
    pub side: usize,
    /// Pixels of all pictures, row by row.
    pub pixels: Vec<u8>,
    /// Class of each picture.
    pub labels: Vec<usize>,
}

impl Pictures {
    /// Reads the pictures of `side`×`side` pixels in the files of `folder` that begin with `name`. Errors name the file.
    pub fn read(folder: &Path, name: &str, side: usize) -> Result<Self, String> {
        let image_path = find(folder, &format!("{name}-images-idx3-ubyte"));
        let label_path = find(folder, &format!("{name}-labels-idx1-ubyte"));
        let (images, labels) = (IdxItems::open(&image_path, 2)?, IdxItems::open(&label_path, 0)?);
        if images.shape() != [side, side] {
            let (path, [rows, columns]) = (image_path.display(), [images.shape()[0], images.shape()[1]]);
            return Err(format!("{path}: expected pictures of {side}×{side} pixels, got {rows}×{columns}"));
        }
        let (count, labelled) = (images.len(), labels.len());
        if count != labelled {
            let path = label_path.display();
            return Err(format!("{path}: expected {count} labels, one per picture, got {labelled}"));
        }
        let labels = labels.map(|label| match usize::from(label?[0]) {
            label if label < CLASSES.len() => Ok(label),
            label => {
                let (path, last) = (label_path.display(), CLASSES.len() - 1);
                Err(format!("{path}: expected labels from 0 to {last}, got {label}"))
            }
        });
        let labels = labels.collect::<Result<Vec<_>, String>>()?;
        let mut pixels = Vec::new();
        for image in images {
            pixels.extend(image?);
        }
        Ok(Self { side, pixels, labels })
    }

    /// SHA-256 of pixels and labels.
    pub fn digest(&self) -> String {
        let labels = self.labels.iter().map(|&label| label as u8);
        sha256_of(&self.pixels.iter().copied().chain(labels).collect::<Vec<u8>>())
    }
}

/// Pixel of 8 bits in [-1, 1].
pub fn to_value(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
}

/// Nearest pixel of 8 bits to a value in [-1, 1]; others are clamped.
pub fn to_pixel(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

/// Items are images [1, side, side].
impl Dataset for Pictures {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        [1, self.side, self.side]
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index]
    }

    fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> transdiff::Result<()> {
        let each = self.side * self.side;
        out.extend(self.pixels[index * each..][..each].iter().map(|&pixel| to_value(pixel)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_round_trip() {
        assert!((0..=255).all(|pixel| to_pixel(to_value(pixel)) == pixel));
        assert_eq!([-7.0, 7.0, f32::NAN].map(to_pixel), [0, 255, 0]);
    }
}
