//! Reference images, from files of any common format.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

use image::error::LimitErrorKind;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use transdiff::pipeline::{PixelFormat, from_pixels};
use transdiff::{Error, HostTensor};

use crate::failure::{Failure, Result};

/// Formats that are read, as messages list them.
const FORMATS: &str = "PNG, JPEG, WebP, BMP, TIFF or GIF";
/// Memory that a decoder may take per pixel of the expected image, for the image and its own buffers: files are untrusted.
const BYTES_PER_PIXEL: u64 = 64;
/// Memory that a decoder may take besides, for tables.
const FIXED_BYTES: u64 = 16 << 20;

/// Reads a picture of rows×columns pixels as an image [1, channels, rows, columns] in [-1, 1].
///
/// Grey is expanded to RGB for a model of 3 channels and colours become grey for a model of 1 channel, an alpha channel is ignored, and of an animation the first frame is taken. The picture is
/// turned upright if it says how.
pub fn read_reference(path: &Path, [rows, columns]: [usize; 2], channels: usize) -> Result<HostTensor> {
    let error = |e: String| Failure::Message(format!("{}: {e}", path.display()));
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let format = guess_format(&mut file).map_err(Error::io(path))?;
    let format = format.ok_or_else(|| error(format!("expected a picture ({FORMATS}), got another file")))?;
    let name = name_of(format).ok_or_else(|| {
        let extension = format.extensions_str().first().copied().unwrap_or_default();
        error(format!("expected a picture in the format {FORMATS}, got .{extension}"))
    })?;
    let mut reader = ImageReader::with_format(file, format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some((rows * columns) as u64 * BYTES_PER_PIXEL + FIXED_BYTES);
    reader.limits(limits);
    let damaged = |e: ImageError| match e {
        ImageError::Limits(e) if matches!(e.kind(), LimitErrorKind::InsufficientMemory) => {
            error(format!("the {name} file takes more memory than an image of {columns}×{rows} pixels may"))
        }
        e => error(format!("cannot decode the {name} file: {e}")),
    };
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if (height as usize, width as usize) != (rows, columns) {
        return Err(error(format!(
            "expected an image of {columns}×{rows} pixels, got {width}×{height}; resize or crop it"
        )));
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(match channels {
        1 => from_pixels(&image.into_luma8(), PixelFormat::Gray8, 1, rows, columns)?,
        _ => from_pixels(&image.into_rgb8(), PixelFormat::Rgb8Hwc, 1, rows, columns)?,
    })
}

/// Recognises the format by the first bytes.
fn guess_format(file: &mut BufReader<File>) -> std::io::Result<Option<ImageFormat>> {
    let format = ImageReader::new(&mut *file).with_guessed_format()?.format();
    file.rewind()?;
    Ok(format)
}

/// Name of a format that is read.
fn name_of(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Png => Some("PNG"),
        ImageFormat::Jpeg => Some("JPEG"),
        ImageFormat::WebP => Some("WebP"),
        ImageFormat::Bmp => Some("BMP"),
        ImageFormat::Tiff => Some("TIFF"),
        ImageFormat::Gif => Some("GIF"),
        _ => None,
    }
}
