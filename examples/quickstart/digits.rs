//! The data set: 1,797 handwritten digits of 8×8 pixels with values from 0 to 16.
//!
//! Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
//! Repository, 1998, <https://doi.org/10.24432/C50P49>, CC BY 4.0 (its test part).

use std::error::Error;

use flate2::read::GzDecoder;

/// Rows for training; most of the other rows come from different writers.
pub const TRAINING_ROWS: usize = 1200;
/// Number of classes, the digits 0 to 9.
pub const CLASSES: usize = 10;
/// Width and height of an image.
pub const SIDE: usize = 8;
/// Number of values in an image, and in its latent.
pub const PIXELS: usize = SIDE * SIDE;
/// The largest pixel value.
pub const WHITE: f32 = 16.0;
/// Width and height of a latent; it has four channels.
pub const LATENT_SIDE: usize = SIDE / 2;

/// Pixels in 0..=16, row by row.
pub type Image = [f32; PIXELS];
/// Values in [-1, 1], (C,H,W) = (4,4,4).
pub type Latent = [f32; PIXELS];

/// Images and their labels.
#[derive(Clone, Default)]
pub struct Digits {
    /// The images.
    pub images: Vec<Image>,
    /// The class of each image.
    pub labels: Vec<usize>,
}

impl Digits {
    /// Loads the training digits and the test digits.
    pub fn load() -> Result<(Self, Self), Box<dyn Error>> {
        let packed = GzDecoder::new(include_bytes!("digits.csv.gz").as_slice());
        let mut rows = csv::ReaderBuilder::new().has_headers(false).from_reader(packed);
        let (mut train, mut test) = (Self::default(), Self::default());
        for (i, row) in rows.deserialize::<Vec<f32>>().enumerate() {
            let row = row?;
            let (label, pixels) = row.split_last().ok_or("digits.csv.gz: an empty row")?;
            let part = if i < TRAINING_ROWS { &mut train } else { &mut test };
            part.images.push(pixels.try_into()?);
            part.labels.push(*label as usize);
        }
        Ok((train, test))
    }
}

/// Pixel-unshuffles an image to four channels of half the size: channel 2·dy + dx holds the pixels (2y + dy, 2x + dx).
pub fn to_latent(image: &Image) -> Latent {
    let mut latent = [0.0; PIXELS];
    for (pixel, &value) in image.iter().enumerate() {
        latent[latent_index(pixel)] = value / (WHITE / 2.0) - 1.0;
    }
    latent
}

/// Inverse of [`to_latent`], clamped to 0..=16.
pub fn from_latent(latent: &Latent) -> Image {
    std::array::from_fn(|pixel| ((latent[latent_index(pixel)] + 1.0) * (WHITE / 2.0)).clamp(0.0, WHITE))
}

/// Rounds pixels to whole numbers, as in the data set; ties to even.
pub fn quantized(image: &Image) -> Image {
    image.map(f32::round_ties_even)
}

/// Index in the latent of the pixel with this index in the image.
fn latent_index(pixel: usize) -> usize {
    let (y, x) = (pixel / SIDE, pixel % SIDE);
    let channel = y % 2 * 2 + x % 2;
    (channel * LATENT_SIDE + y / 2) * LATENT_SIDE + x / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_round_trip() {
        let (train, test) = Digits::load().unwrap();
        assert_eq!((train.images.len(), test.images.len()), (TRAINING_ROWS, 597));
        assert!(
            train.images.iter().chain(&test.images).all(|image| from_latent(&to_latent(image)) == *image)
        );
        assert!(train.labels.iter().all(|&label| label < CLASSES));
    }

    #[test]
    fn layout_equals_pytorch_pixel_unshuffle() {
        let image: Image = std::array::from_fn(|i| i as f32);
        let pixels = to_latent(&image).map(|v| ((v + 1.0) * 8.0) as usize);
        assert_eq!(pixels[..8], [0, 2, 4, 6, 16, 18, 20, 22]);
        assert_eq!([pixels[16], pixels[32], pixels[48], pixels[63]], [1, 8, 9, 63]);
    }
}
