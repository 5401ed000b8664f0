//! 8-bit bitmaps, and PNG files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder, Transformations};
use transdiff::pipeline::{PixelFormat, from_pixels};
use transdiff::{Error, HostTensor};

use crate::failure::{Failure, Result};

/// 8-bit image, row by row, with interleaved channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    pub height: usize,
    pub width: usize,
    /// PNG colour type of the pixels.
    pub color: ColorType,
    /// height · width · channels bytes.
    pub bytes: Vec<u8>,
}

impl Bitmap {
    /// Creates a white bitmap.
    pub fn white(height: usize, width: usize, color: ColorType) -> Result<Self> {
        let size = height * width * color.samples();
        let mut bytes = Vec::new();
        let out_of_memory =
            |_| Failure::Message(format!("out of memory for an image of {width}×{height} pixels"));
        bytes.try_reserve_exact(size).map_err(out_of_memory)?;
        bytes.resize(size, u8::MAX);
        Ok(Self { height, width, color, bytes })
    }

    /// Copies `other`, of the same colour type and enlarged `zoom` times, to (`top`, `left`).
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
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let png = self.encode_png().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(std::fs::write(path, png).map_err(Error::io(path))?)
    }

    fn encode_png(&self) -> Result<Vec<u8>, png::EncodingError> {
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

/// Reads a PNG file of rows×columns pixels as an image [1, 3, rows, columns] in [-1, 1].
///
/// Grey is expanded to RGB; an alpha channel is ignored.
pub fn read_rgb(path: &Path, [rows, columns]: [usize; 2]) -> Result<HostTensor> {
    let error = |e: &dyn std::fmt::Display| Failure::Message(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(Error::io(path))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| error(&format!("not a PNG file: {e}")))?;
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    if (height, width) != (rows, columns) {
        return Err(error(&format!("expected an image of {columns}×{rows} pixels, got {width}×{height}")));
    }
    let mut bytes = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let frame = reader.next_frame(&mut bytes).map_err(|e| error(&e))?;
    let pixels = bytes[..frame.buffer_size()].chunks_exact(frame.color_type.samples());
    let rgb: Vec<u8> = match frame.color_type {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => pixels.flat_map(|p| [p[0]; 3]).collect(),
        _ => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
    };
    Ok(from_pixels(&rgb, PixelFormat::Rgb8Hwc, 1, rows, columns)?)
}

#[cfg(test)]
mod tests {
    use transdiff::pipeline::to_pixels;

    use super::*;

    #[test]
    fn png_round_trips_every_color_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for color in [ColorType::Rgb, ColorType::Rgba, ColorType::Grayscale, ColorType::GrayscaleAlpha] {
            let samples = color.samples();
            let bytes: Vec<u8> = (0..9 * samples).map(|i| (i * 29 % 256) as u8).collect();
            Bitmap { height: 3, width: 3, color, bytes: bytes.clone() }.write_png(&path).unwrap();
            let mut read = vec![0; 27];
            to_pixels(&read_rgb(&path, [3, 3]).unwrap(), PixelFormat::Rgb8Hwc, &mut read).unwrap();
            let rgb = |p: &[u8]| if samples < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] };
            let want: Vec<u8> = bytes.chunks_exact(samples).flat_map(rgb).collect();
            assert_eq!(read, want, "{color:?}");
        }
        assert!(read_rgb(&path, [4, 4]).is_err());
    }

    #[test]
    fn paste_enlarges_by_repeating_pixels() {
        let small = Bitmap { height: 1, width: 2, color: ColorType::Grayscale, bytes: vec![1, 2] };
        let mut canvas = Bitmap::white(3, 5, ColorType::Grayscale).unwrap();
        canvas.paste(&small, 2, 1, 0);
        assert_eq!(canvas.bytes, [[255; 5], [1, 1, 2, 2, 255], [1, 1, 2, 2, 255]].concat());
    }
}
