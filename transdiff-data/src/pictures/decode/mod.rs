//! Decoding of picture files to 8-bit grey or RGB, as Pillow's `convert` does.
//!
//! The content decides the format, not the name. An alpha channel is dropped, not blended; EXIF orientation and colour
//! profiles are ignored; of an animation the first frame is taken. Sizes are checked before memory is allocated.

mod general;
mod jpeg;
mod limits;
mod png;
mod pnm;
mod tiff;

use std::path::Path;

use image::ImageFormat;
use transdiff_core::{Error, Result};

pub use limits::Limits;

use super::Picture;

/// Formats that are read, as messages list them.
const FORMATS: &str = "JPEG, PNG, WebP, BMP, TIFF, PPM or PGM";

/// Format of a picture file.
#[derive(Clone, Copy)]
enum Format {
    Jpeg,
    Png,
    Pnm,
    General(ImageFormat, &'static str),
}

impl Format {
    /// Recognises the format by the first bytes.
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Self::Png,
            [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace() || *space == b'#' => Self::Pnm,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                Self::General(ImageFormat::WebP, "WebP")
            }
            [b'B', b'M', ..] => Self::General(ImageFormat::Bmp, "BMP"),
            [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => {
                Self::General(ImageFormat::Tiff, "TIFF")
            }
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Pnm => "PNM",
            Self::General(_, name) => name,
        }
    }
}

/// Decodes the contents `bytes` of the file `path`, which is only named, to `channels` channels: 1 (grey) or 3 (RGB).
///
/// # Errors
/// [`Error::Format`], with the format and the cause, if the file is no picture, is truncated or corrupt, or exceeds
/// `limits`; [`Error::Argument`] for another number of channels.
pub fn decode(path: &Path, bytes: &[u8], channels: usize, limits: &Limits) -> Result<Picture> {
    if !matches!(channels, 1 | 3) {
        return Err(Error::argument("channels", "1 or 3", channels));
    }
    if bytes.is_empty() {
        return Err(Error::format(path, format!("expected a picture ({FORMATS}), got an empty file")));
    }
    let format = Format::of(bytes).ok_or_else(|| {
        let got = if bytes.starts_with(b"GIF8") { "a GIF, which is not supported" } else { "another file" };
        Error::format(path, format!("expected a picture ({FORMATS}), got {got}"))
    })?;
    let picture = match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => png::decode(bytes, limits),
        Format::Pnm => pnm::decode(bytes, limits),
        Format::General(format, _) => general::decode(bytes, format, limits),
    };
    let picture = picture.map_err(|cause| {
        Error::format(path, format!("cannot decode the {} picture: {}", format.name(), cause.trim_end()))
    })?;
    Ok(picture.into_channels(channels))
}
