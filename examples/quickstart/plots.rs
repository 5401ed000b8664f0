//! The figure of samples, a grid (PNG).

use std::error::Error;
use std::path::Path;

use transdiff::checkpoint::write_bytes_atomic;

use crate::digits::{CLASSES, Image, SIDE, WHITE};

/// Side in output pixels of each pixel of a digit.
const SCALE: usize = 6;
/// Pixels between digits.
const GAP: usize = 4;
const TILE: usize = SIDE * SCALE + GAP;
/// Background, a little lighter than the digits' black so that their edges show.
const BACKGROUND: u8 = 40;

/// Writes one row per class with the first `columns` images of each.
pub fn write_grid(
    path: &Path,
    images: &[Image],
    labels: &[usize],
    columns: usize,
) -> Result<(), Box<dyn Error>> {
    let (width, height) = (columns * TILE + GAP, CLASSES * TILE + GAP);
    let mut canvas = vec![BACKGROUND; width * height];
    let mut filled = [0; CLASSES];
    for (image, &class) in images.iter().zip(labels) {
        if filled[class] < columns {
            paste(&mut canvas, width, image, GAP + filled[class] * TILE, GAP + class * TILE);
            filled[class] += 1;
        }
    }
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas)?;
    writer.finish()?;
    Ok(write_bytes_atomic(path, &png)?)
}

/// Draws an enlarged image by repeating pixels, so that the pixel values stay visible.
fn paste(canvas: &mut [u8], width: usize, image: &Image, left: usize, top: usize) {
    for y in 0..SIDE * SCALE {
        let row = &mut canvas[(top + y) * width + left..][..SIDE * SCALE];
        for (x, value) in row.iter_mut().enumerate() {
            *value = (image[y / SCALE * SIDE + x / SCALE] / WHITE * 255.0).round() as u8;
        }
    }
}
