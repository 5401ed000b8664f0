//! WebP, BMP and TIFF, by the crate `image`.

use std::io::Cursor;

use image::error::LimitErrorKind;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::limits::Limits;
use super::tiff;
use crate::pictures::Picture;

pub fn decode(bytes: &[u8], format: ImageFormat, limits: &Limits) -> Result<Picture, String> {
    if format == ImageFormat::Tiff {
        tiff::check_values(bytes)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder_limits = image::Limits::no_limits();
    decoder_limits.max_alloc = Some(limits.max_bytes);
    reader.limits(decoder_limits);
    let decoder = reader.into_decoder().map_err(cause)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    limits.check(width, height, u64::from(decoder.color_type().bytes_per_pixel()) + 3)?;
    let image = DynamicImage::from_decoder(decoder).map_err(cause)?;
    let (channels, pixels) = pixels_of(image)?;
    Ok(Picture::new(width, height, channels, pixels))
}

/// Channels (1 or 3) and pixels, without alpha. As in Pillow, 16-bit grey is clipped, and of other 16-bit samples the high
/// byte counts.
fn pixels_of(image: DynamicImage) -> Result<(usize, Vec<u8>), String> {
    fn first<T: Copy>(samples: &[T], stored: usize, taken: usize, f: impl Fn(T) -> u8) -> Vec<u8> {
        samples.chunks_exact(stored).flat_map(|pixel| &pixel[..taken]).map(|&sample| f(sample)).collect()
    }
    let high = |sample: u16| (sample >> 8) as u8;
    Ok(match image {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (1, first(&image, 2, 1, |sample| sample)),
        DynamicImage::ImageRgba8(image) => (3, first(&image, 4, 3, |sample| sample)),
        DynamicImage::ImageLuma16(image) => (1, first(&image, 1, 1, |sample| sample.min(255) as u8)),
        DynamicImage::ImageLumaA16(image) => (1, first(&image, 2, 1, high)),
        DynamicImage::ImageRgb16(image) => (3, first(&image, 3, 3, high)),
        DynamicImage::ImageRgba16(image) => (3, first(&image, 4, 3, high)),
        _ => return Err("expected samples of 8 or 16 bits, got floating-point numbers".to_owned()),
    })
}

fn cause(error: ImageError) -> String {
    match error {
        ImageError::Limits(e) if matches!(e.kind(), LimitErrorKind::InsufficientMemory) => {
            "decoding takes more memory than the limit".to_owned()
        }
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is truncated".to_owned()
        }
        other => other.to_string(),
    }
}
