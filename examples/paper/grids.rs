//! Grids of images (PNG): a strip per set, with a row per class, and strips side by side.

use std::error::Error;
use std::io::Cursor;

use crate::pictures::CLASSES;

/// Images per class in a strip.
const COLUMNS: usize = 2;
/// Pixels between images.
const GAP: usize = 2;
/// Brightness of the gaps, a little lighter than the pictures' black.
const BACKGROUND: u8 = 40;

/// A grey image.
#[derive(Clone, Debug, PartialEq)]
pub struct Grey {
    /// Width in pixels.
    pub width: usize,
    /// Pixels, row by row.
    pub pixels: Vec<u8>,
}

impl Grey {
    fn height(&self) -> usize {
        self.pixels.len() / self.width
    }

    /// Encodes the image.
    pub fn to_png(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut png = Vec::new();
        let mut encoder =
            png::Encoder::new(&mut png, u32::try_from(self.width)?, u32::try_from(self.height())?);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(png)
    }

    /// Decodes an image that [`to_png`](Self::to_png) has encoded.
    pub fn from_png(png: &[u8]) -> Result<Self, Box<dyn Error>> {
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().ok_or("an image too large to decode")?];
        let info = reader.next_frame(&mut pixels)?;
        if (info.color_type, info.bit_depth) != (png::ColorType::Grayscale, png::BitDepth::Eight) {
            return Err("expected a grey image of 8 bits".into());
        }
        pixels.truncate(info.buffer_size());
        Ok(Self { width: info.width as usize, pixels })
    }
}

/// The first images of each class, a row per class. Images of `side`×`side` pixels are in turns of the classes.
pub fn strip(pixels: &[u8], side: usize) -> Grey {
    let tile = side + GAP;
    let (width, height) = (COLUMNS * tile + GAP, CLASSES.len() * tile + GAP);
    let mut strip = Grey { width, pixels: vec![BACKGROUND; width * height] };
    for (index, image) in pixels.chunks(side * side).take(COLUMNS * CLASSES.len()).enumerate() {
        let (row, column) = (index % CLASSES.len(), index / CLASSES.len());
        let (left, top) = (GAP + column * tile, GAP + row * tile);
        for (y, line) in image.chunks(side).enumerate() {
            strip.pixels[(top + y) * width + left..][..side].copy_from_slice(line);
        }
    }
    strip
}

/// Images of one height side by side, each pixel enlarged to `factor`×`factor`; none without images of one height.
pub fn side_by_side(images: &[Grey], factor: usize) -> Option<Grey> {
    let height = images.first()?.height();
    if images.iter().any(|image| image.height() != height) {
        return None;
    }
    let mut pixels = Vec::new();
    for y in 0..height * factor {
        for image in images {
            let row = &image.pixels[y / factor * image.width..][..image.width];
            pixels.extend(row.iter().flat_map(|&pixel| std::iter::repeat_n(pixel, factor)));
        }
    }
    Some(Grey { width: pixels.len() / (height * factor), pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_have_a_row_per_class() {
        let pixels: Vec<u8> = (0..30).collect();
        let strip = strip(&pixels, 1);
        assert_eq!(strip.pixels[GAP * strip.width + GAP], 0);
        assert_eq!(strip.pixels[(GAP + 3 * (1 + GAP)) * strip.width + GAP + 1 + GAP], 13);
        let png = strip.to_png().unwrap();
        assert_eq!(Grey::from_png(&png).unwrap(), strip);
        assert!(Grey::from_png(&png[..40]).is_err());
    }

    #[test]
    fn images_side_by_side_are_enlarged() {
        let [a, b] = [vec![1, 2], vec![3, 4]].map(|pixels| Grey { width: 1, pixels });
        let both = side_by_side(&[a.clone(), b], 2).unwrap();
        assert_eq!((both.width, both.height()), (4, 4));
        assert_eq!(both.pixels, [1, 1, 3, 3, 1, 1, 3, 3, 2, 2, 4, 4, 2, 2, 4, 4]);
        assert!(side_by_side(&[a, Grey { width: 2, pixels: vec![0; 2] }], 1).is_none());
        assert!(side_by_side(&[], 1).is_none());
    }
}
