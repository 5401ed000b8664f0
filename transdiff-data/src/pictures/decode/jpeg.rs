//! JPEG, by `zune-jpeg`, with the choices of libjpeg where a file leaves its colour space open.

use std::borrow::Cow;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

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
    let (bytes, output) = header.resolve_color_space(bytes);
    // Bytes between segments are skipped in headers, as libjpeg does; corrupt image data is an error.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(output);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&bytes[..]), options);
    decoder.decode_headers().map_err(cause)?;
    let (width, height) = decoder.dimensions().ok_or(MISSING_END)?;
    limits.check(width, height, BYTES_PER_SAMPLE * components as u64)?;
    if width as u64 * height as u64 > MAX_PIXELS_PER_BYTE * bytes.len() as u64 {
        return Err(format!(
            "the file is truncated: {width}×{height} pixels take more than {} bytes",
            bytes.len()
        ));
    }
    decoder.set_options(options.set_strict_mode(true));
    let pixels = decoder.decode().map_err(cause)?;
    Ok(Picture::new(width, height, if components == 1 { 1 } else { 3 }, pixels))
}

/// Properties of a file up to its image data that decide on the colour space.
struct Header {
    jfif: bool,
    /// Position of the Adobe segment's colour transform.
    adobe_transform: Option<usize>,
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
                    header.adobe_transform = Some(at + 2 + 11);
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

    /// Chooses the colour space as libjpeg does, and returns the bytes to decode and the colour space to decode to.
    ///
    /// The decoder takes three components for YCbCr and four for CMYK unless an Adobe segment says otherwise, and refuses
    /// the Adobe transforms that do not fit the number of components; those are replaced.
    fn resolve_color_space<'a>(&self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, ColorSpace) {
        let transform = self.adobe_transform.map(|at| (at, bytes[at]));
        let replaced = |at: usize, transform: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = transform;
            Cow::Owned(bytes)
        };
        match (self.components.len(), transform) {
            (1, Some((at, transform))) if transform > 2 => (replaced(at, 0), ColorSpace::Luma),
            (1, _) => (bytes.into(), ColorSpace::Luma),
            // RGB: decoded as if it were YCbCr, without conversion.
            (3, Some((at, 0))) if !self.jfif && self.components != *b"RGB" => {
                (replaced(at, 1), ColorSpace::YCbCr)
            }
            (3, Some((at, transform))) if transform != 1 => (replaced(at, 1), ColorSpace::RGB),
            (4, Some((at, transform))) if !matches!(transform, 0 | 2) => (replaced(at, 2), ColorSpace::RGB),
            // Four components are inverted, as Adobe writes them; Pillow does not look for its marker.
            _ => (bytes.into(), ColorSpace::RGB),
        }
    }
}

/// Describes an error without the decoder's names for its own types.
fn cause(error: DecodeErrors) -> String {
    match error {
        DecodeErrors::Format(text)
        | DecodeErrors::HuffmanDecode(text)
        | DecodeErrors::DqtError(text)
        | DecodeErrors::SosError(text)
        | DecodeErrors::SofError(text)
        | DecodeErrors::MCUError(text) => text,
        DecodeErrors::FormatStatic(text) => text.to_owned(),
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => "the file is truncated".to_owned(),
        other => other.to_string(),
    }
}
