//! Pictures as PNG files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder, Transformations};
use transdiff::pipeline::{Output, PixelFormat, from_pixels, to_pixels};
use transdiff::{Error, HostTensor};

use crate::failure::{Failure, Result};

/// Rows of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub height: usize,
    pub width: usize,
    /// RGB or grey.
    pub color: ColorType,
    bytes: Vec<u8>,
}

/// What pictures show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Images.
    Pixels,
    /// Latents, the side² channels of a position as side×side pixels.
    Latents {
        /// Pixels of a position along a side.
        side: usize,
    },
}

impl Look {
    /// How latents of `channels` channels are shown, if they can be.
    pub fn of_latents(channels: usize) -> Option<Self> {
        let side = channels.isqrt();
        (side * side == channels).then_some(Self::Latents { side })
    }

    /// The pictures of what was made, one an image.
    pub fn pictures(self, made: &Output) -> Result<Vec<Picture>> {
        match (self, &made.images) {
            (Self::Pixels, Some(images)) => rgb(images),
            (Self::Pixels, None) => Ok(Vec::new()),
            (Self::Latents { side }, _) => Ok(grey(&made.latents, side)),
        }
    }
}

/// Images [n, 3, H, W] in [-1, 1].
fn rgb(images: &HostTensor) -> Result<Vec<Picture>> {
    let (height, width) = (images.shape()[2], images.shape()[3]);
    let mut bytes = vec![0; images.data().len()];
    to_pixels(images, PixelFormat::Rgb8Hwc, &mut bytes)?;
    let picture = |bytes: &[u8]| Picture { height, width, color: ColorType::Rgb, bytes: bytes.to_vec() };
    Ok(bytes.chunks_exact(3 * height * width).map(picture).collect())
}

/// Latents [n, side², h, w]: channel side·dy + dx holds the pixels (side·y + dy, side·x + dx).
fn grey(latents: &HostTensor, side: usize) -> Vec<Picture> {
    let (h, w) = (latents.shape()[2], latents.shape()[3]);
    let (height, width) = (side * h, side * w);
    let picture = |latent: &[f32]| {
        let value = |pixel: usize| {
            let (y, x) = (pixel / width, pixel % width);
            let channel = y % side * side + x % side;
            latent[(channel * h + y / side) * w + x / side]
        };
        let byte = |pixel| ((value(pixel) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
        Picture { height, width, color: ColorType::Grayscale, bytes: (0..height * width).map(byte).collect() }
    };
    latents.to_f32().chunks_exact(height * width).map(picture).collect()
}

impl Picture {
    /// A white picture.
    pub fn white(height: usize, width: usize, color: ColorType) -> Result<Self> {
        let size = height * width * color.samples();
        let mut bytes = Vec::new();
        let full = |_| Failure::Message(format!("no memory for a picture of {height}×{width} pixels"));
        bytes.try_reserve_exact(size).map_err(full)?;
        bytes.resize(size, u8::MAX);
        Ok(Self { height, width, color, bytes })
    }

    /// Puts `other`, of the same colour, at (`top`, `left`), each of its pixels `zoom` times in both directions.
    pub fn paste(&mut self, other: &Self, zoom: usize, top: usize, left: usize) {
        let samples = self.color.samples();
        for y in 0..zoom * other.height {
            for x in 0..zoom * other.width {
                let from = (y / zoom * other.width + x / zoom) * samples;
                let to = ((top + y) * self.width + left + x) * samples;
                self.bytes[to..to + samples].copy_from_slice(&other.bytes[from..from + samples]);
            }
        }
    }

    /// Writes a PNG file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let encoded = self.encoded().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(std::fs::write(path, encoded).map_err(Error::io(path))?)
    }

    fn encoded(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, self.width as u32, self.height as u32);
        encoder.set_color(self.color);
        encoder.set_depth(BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        writer.finish()?;
        Ok(out)
    }
}

/// The image [1, 3, side, side] in [-1, 1] of a PNG file. Grey becomes colour; transparency is not looked at.
pub fn read_rgb(path: &Path, side: usize) -> Result<HostTensor> {
    let fault = |e: &dyn std::fmt::Display| Failure::Message(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(Error::io(path))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| fault(&format!("not a PNG file: {e}")))?;
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    if (height, width) != (side, side) {
        return Err(fault(&format!("expected an image of {side}×{side} pixels, got {width}×{height}")));
    }
    let mut bytes = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let frame = reader.next_frame(&mut bytes).map_err(|e| fault(&e))?;
    let pixels = bytes[..frame.buffer_size()].chunks_exact(frame.color_type.samples());
    let rgb: Vec<u8> = match frame.color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => pixels.flat_map(|p| [p[0]; 3]).collect(),
        _ => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
    };
    Ok(from_pixels(&rgb, PixelFormat::Rgb8Hwc, 1, side, side)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_latents_become_pixels() {
        assert_eq!(Look::of_latents(16), Some(Look::Latents { side: 4 }));
        assert_eq!([2, 3, 8].map(Look::of_latents), [None; 3]);
        // Channel c holds c/2 - 1 everywhere, but for 2, 3 and -3 in the last.
        let mut values: Vec<f32> = (0..16).map(|i| (i / 4) as f32 / 2.0 - 1.0).collect();
        values[13..].copy_from_slice(&[2.0, 3.0, -3.0]);
        let pictures = grey(&HostTensor::f32(&[1, 4, 2, 2], values).unwrap(), 2);
        let rows = [[0, 64, 0, 64], [128, 191, 128, 255], [0, 64, 0, 64], [128, 255, 128, 0]];
        assert_eq!((pictures.len(), pictures[0].height, pictures[0].width), (1, 4, 4));
        assert_eq!(pictures[0].bytes, rows.concat());
    }

    #[test]
    fn pictures_come_back_from_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for color in [ColorType::Rgb, ColorType::Rgba, ColorType::Grayscale, ColorType::GrayscaleAlpha] {
            let samples = color.samples();
            let bytes: Vec<u8> = (0..9 * samples).map(|i| (i * 29 % 256) as u8).collect();
            Picture { height: 3, width: 3, color, bytes: bytes.clone() }.write(&path).unwrap();
            let mut back = vec![0; 27];
            to_pixels(&read_rgb(&path, 3).unwrap(), PixelFormat::Rgb8Hwc, &mut back).unwrap();
            let colour = |p: &[u8]| if samples < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] };
            let want: Vec<u8> = bytes.chunks_exact(samples).flat_map(colour).collect();
            assert_eq!(back, want, "{color:?}");
        }
        assert!(read_rgb(&path, 4).is_err());
    }

    #[test]
    fn pictures_are_pasted_enlarged() {
        let small = Picture { height: 1, width: 2, color: ColorType::Grayscale, bytes: vec![1, 2] };
        let mut canvas = Picture::white(3, 5, ColorType::Grayscale).unwrap();
        canvas.paste(&small, 2, 1, 0);
        assert_eq!(canvas.bytes, [[255; 5], [1, 1, 2, 2, 255], [1, 1, 2, 2, 255]].concat());
    }
}
