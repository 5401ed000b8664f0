//! JPEG, by the crate `jpeg-decoder`, which interpolates subsampled colours as libjpeg does, with the choices of libjpeg where
//! a file leaves its colour space open.
//!
//! (`zune-jpeg` is two to three times as fast, but rounds the colours of 4:2:0 files twice: it is off by more than 0.35 grey
//! levels on average in one of seven small pictures.)

use jpeg_decoder::{ColorTransform, Decoder, Error, PixelFormat};

use super::limits::Limits;
use crate::pictures::Picture;

/// Most pixels that a byte can encode: a block of 8×8 pixels takes at least one bit.
const MAX_PIXELS_PER_BYTE: u64 = 512;
/// Bytes per pixel and component for decoding: the sample, and the coefficient of a progressive file.
const BYTES_PER_SAMPLE: u64 = 3;

const MISSING_END: &str = "the file is truncated: it has no end-of-image marker";

pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, String> {
    let header = Header::read(bytes).ok_or("the file is truncated: it has no image data")?;
    let components = header.components.len();
    if !matches!(components, 1 | 3 | 4) {
        return Err(format!("expected 1, 3 or 4 components, got {components}"));
    }
    // Decoders accept a file without its end where all blocks are there by chance, or were made up.
    if !bytes[header.data..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9]) {
        return Err(MISSING_END.to_owned());
    }
    let mut decoder = Decoder::new(bytes);
    decoder.set_color_transform(header.color_transform());
    decoder.set_max_decoding_buffer_size(usize::try_from(limits.max_bytes).unwrap_or(usize::MAX));
    decoder.read_info().map_err(cause)?;
    let info = decoder.info().ok_or(MISSING_END)?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    limits.check(width, height, BYTES_PER_SAMPLE * components as u64)?;
    if width as u64 * height as u64 > MAX_PIXELS_PER_BYTE * bytes.len() as u64 {
        return Err(format!(
            "the file is truncated: {width}×{height} pixels take more than {} bytes",
            bytes.len()
        ));
    }
    let pixels = decoder.decode().map_err(cause)?;
    match info.pixel_format {
        PixelFormat::L8 => Ok(Picture::new(width, height, 1, pixels)),
        PixelFormat::RGB24 => Ok(Picture::new(width, height, 3, pixels)),
        PixelFormat::CMYK32 => Ok(Picture::new(width, height, 3, rgb_of_cmyk(&pixels))),
        PixelFormat::L16 => Err("expected 8 bits per component, got 16".to_owned()),
    }
}

/// Converts as Pillow does.
fn rgb_of_cmyk(pixels: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(pixels.len() / 4 * 3);
    for &[c, m, y, k] in pixels.as_chunks().0 {
        let light = 255 - u32::from(k);
        rgb.extend([c, m, y].map(|ink| {
            let product = u32::from(ink) * light + 128;
            (light - (((product >> 8) + product) >> 8)) as u8
        }));
    }
    rgb
}

/// Properties of a file up to its image data that decide on the colour space.
struct Header {
    jfif: bool,
    /// Colour transform of the Adobe segment.
    adobe_transform: Option<u8>,
    /// Identifiers of the components.
    components: Vec<u8>,
    /// Position of the first scan.
    data: usize,
}

impl Header {
    /// Reads the segments up to the first scan; `None` if they end early.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self { jfif: false, adobe_transform: None, components: Vec::new(), data: 0 };
        let mut at = 2;
        loop {
            at += bytes
                .get(at..)?
                .windows(2)
                .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))?;
            let marker = bytes[at + 1];
            at += 2;
            if matches!(marker, 0x01 | 0xD0..=0xD8) {
                continue;
            }
            if marker == 0xD9 {
                return None;
            }
            let len = usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
            let segment = bytes.get(at + 2..at + len.max(2))?;
            match marker {
                0xE0 => header.jfif |= segment.starts_with(b"JFIF\0"),
                0xEE if segment.starts_with(b"Adobe") && segment.len() >= 12 => {
                    header.adobe_transform = Some(segment[11]);
                }
                // Every start of frame; tables of Huffman and arithmetic codes have markers between them.
                0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                    header.components = segment.get(6..)?.chunks_exact(3).map(|c| c[0]).collect();
                }
                0xDA => {
                    header.data = at;
                    return Some(header);
                }
                _ => {}
            }
            at += len.max(2);
        }
    }

    /// Chooses the colour space as libjpeg does.
    fn color_transform(&self) -> ColorTransform {
        match (self.components.len(), self.adobe_transform) {
            (1, _) => ColorTransform::Grayscale,
            (3, _) if self.jfif => ColorTransform::YCbCr,
            (3, Some(0)) => ColorTransform::RGB,
            (3, Some(_)) => ColorTransform::YCbCr,
            (3, None) if self.components == *b"RGB" => ColorTransform::RGB,
            (3, None) => ColorTransform::YCbCr,
            // Both are inverted, as Adobe writes them; Pillow does not look for its marker.
            (_, Some(0) | None) => ColorTransform::CMYK,
            _ => ColorTransform::YCCK,
        }
    }
}

/// Describes an error without the decoder's names for its own types.
fn cause(error: Error) -> String {
    match error {
        Error::Format(text) => text,
        Error::Unsupported(_) => "the file uses a feature of JPEG that is not supported".to_owned(),
        Error::Io(_) => "the file is truncated".to_owned(),
        other => other.to_string(),
    }
}
