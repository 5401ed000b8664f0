//! 8-bit bitmaps, and PNG files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder};
use transdiff::checkpoint::write_bytes_atomic;

use crate::failure::{Failure, Result};

/// Keyword of the PNG text that identifies the generation of an image.
const GENERATION: &str = "transdiff.generation";

/// Size and pixel type of a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapFormat {
    pub height: usize,
    pub width: usize,
    /// PNG colour type of the pixels.
    pub color: ColorType,
}

/// 8-bit image, row by row, with interleaved channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    pub format: BitmapFormat,
    /// height · width · channels bytes.
    pub bytes: Vec<u8>,
}

impl Bitmap {
    /// Creates a white bitmap.
    pub fn white(format: BitmapFormat) -> Result<Self> {
        let BitmapFormat { height, width, color } = format;
        let size = height * width * color.samples();
        let mut bytes = Vec::new();
        let out_of_memory =
            |_| Failure::Message(format!("out of memory for an image of {width}×{height} pixels"));
        bytes.try_reserve_exact(size).map_err(out_of_memory)?;
        bytes.resize(size, u8::MAX);
        Ok(Self { format, bytes })
    }

    /// Copies `other`, of the same colour type and enlarged `zoom` times, to (`top`, `left`).
    pub fn paste(&mut self, other: &Self, zoom: usize, top: usize, left: usize) {
        let samples = self.format.color.samples();
        for y in 0..zoom * other.format.height {
            for x in 0..zoom * other.format.width {
                let from = (y / zoom * other.format.width + x / zoom) * samples;
                let to = ((top + y) * self.format.width + left + x) * samples;
                self.bytes[to..to + samples].copy_from_slice(&other.bytes[from..from + samples]);
            }
        }
    }

    /// Contents of a PNG file, with the identity of its generation if that is needed to go on.
    pub fn png(&self, generation: Option<&str>) -> Result<Vec<u8>> {
        self.encode_png(generation).map_err(|e| Failure::Message(format!("PNG: {e}")))
    }

    /// Writes a PNG file that is complete or not there, with the identity of its generation if that is needed to go on.
    pub fn write_png(&self, path: &Path, generation: Option<&str>) -> Result<()> {
        let png = self.encode_png(generation).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(write_bytes_atomic(path, &png)?)
    }

    fn encode_png(&self, generation: Option<&str>) -> Result<Vec<u8>, png::EncodingError> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, self.format.width as u32, self.format.height as u32);
        encoder.set_color(self.format.color);
        encoder.set_depth(BitDepth::Eight);
        if let Some(generation) = generation {
            encoder.add_text_chunk(GENERATION.to_owned(), generation.to_owned())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        writer.finish()?;
        Ok(out)
    }

    /// Reads a PNG file for which [`is_generation`] holds.
    pub fn read_png(path: &Path, format: BitmapFormat) -> Result<Self> {
        let error = |e: png::DecodingError| Failure::Message(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(transdiff::Error::io(path))?;
        let mut reader = Decoder::new(BufReader::new(file)).read_info().map_err(error)?;
        let mut bitmap = Self::white(format)?;
        reader.next_frame(&mut bitmap.bytes).map_err(error)?;
        Ok(bitmap)
    }
}

/// Returns true if the file is a PNG of this generation, and of this format if one is given. Only its header is read.
pub fn is_generation(path: &Path, generation: &str, format: Option<BitmapFormat>) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(reader) = Decoder::new(BufReader::new(file)).read_info() else { return false };
    let info = reader.info();
    let found =
        BitmapFormat { height: info.height as usize, width: info.width as usize, color: info.color_type };
    let texts = &info.uncompressed_latin1_text;
    info.bit_depth == BitDepth::Eight
        && format.is_none_or(|format| format == found)
        && texts.iter().any(|text| text.keyword == GENERATION && text.text == generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(height: usize, width: usize, color: ColorType) -> BitmapFormat {
        BitmapFormat { height, width, color }
    }

    #[test]
    fn png_keeps_pixels_and_generation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for color in [ColorType::Rgb, ColorType::Grayscale] {
            let format = format(3, 2, color);
            let bytes: Vec<u8> = (0..6 * color.samples()).map(|i| (i * 29 % 256) as u8).collect();
            let bitmap = Bitmap { format, bytes };
            bitmap.write_png(&path, Some("a")).unwrap();
            assert_eq!(Bitmap::read_png(&path, format).unwrap(), bitmap);
            assert!(is_generation(&path, "a", Some(format)) && is_generation(&path, "a", None));
            assert!(!is_generation(&path, "b", None));
            assert!(!is_generation(&path, "a", Some(BitmapFormat { width: 3, ..format })));
            bitmap.write_png(&path, None).unwrap();
            assert!(!is_generation(&path, "a", None));
        }
        std::fs::write(&path, "").unwrap();
        assert!(!is_generation(&path, "a", None) && !is_generation(folder.path(), "a", None));
    }

    #[test]
    fn paste_enlarges_by_repeating_pixels() {
        let small = Bitmap { format: format(1, 2, ColorType::Grayscale), bytes: vec![1, 2] };
        let mut canvas = Bitmap::white(format(3, 5, ColorType::Grayscale)).unwrap();
        canvas.paste(&small, 2, 1, 0);
        assert_eq!(canvas.bytes, [[255; 5], [1, 1, 2, 2, 255], [1, 1, 2, 2, 255]].concat());
    }
}
