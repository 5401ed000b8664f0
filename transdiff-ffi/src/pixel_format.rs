//! Pixel formats of images.

use transdiff::models::CodecInfo;
use transdiff::pipeline::PixelFormat;

use crate::status::{FfiError, FfiResult, guard_value};

/// 8-bit RGB, height × width × channel (interleaved pixels).
pub const TRANSCDIFF_RGB8_HWC: u32 = 0;
/// 8-bit RGB, channel × height × width (one plane per channel).
pub const TRANSCDIFF_RGB8_CHW: u32 = 1;
/// 32-bit float RGB, −1 (black) to 1 (white) without clamping, height × width × channel.
pub const TRANSCDIFF_F32_HWC: u32 = 2;
/// 32-bit float RGB, −1 (black) to 1 (white) without clamping, channel × height × width.
pub const TRANSCDIFF_F32_CHW: u32 = 3;
/// 8-bit grey, one value per pixel, for models of one image channel. (The formats above have three equal values for them.)
pub const TRANSCDIFF_GRAY8: u32 = 4;
/// 32-bit float grey, −1 (black) to 1 (white) without clamping, one value per pixel, for models of one image channel.
pub const TRANSCDIFF_GRAY_F32: u32 = 5;

/// Pixel format of a `TRANSCDIFF_…` code.
pub(crate) fn pixel_format(code: u32) -> FfiResult<PixelFormat> {
    match code {
        TRANSCDIFF_RGB8_HWC => Ok(PixelFormat::Rgb8Hwc),
        TRANSCDIFF_RGB8_CHW => Ok(PixelFormat::Rgb8Chw),
        TRANSCDIFF_F32_HWC => Ok(PixelFormat::F32Hwc),
        TRANSCDIFF_F32_CHW => Ok(PixelFormat::F32Chw),
        TRANSCDIFF_GRAY8 => Ok(PixelFormat::Gray8),
        TRANSCDIFF_GRAY_F32 => Ok(PixelFormat::GrayF32),
        other => {
            let expected = "one of TRANSCDIFF_RGB8_HWC, _RGB8_CHW, _F32_HWC, _F32_CHW, _GRAY8, _GRAY_F32";
            Err(FfiError::argument("pixel_format", expected, other))
        }
    }
}

/// Checks that the images of a codec can be written in `format`: coloured ones in no grey format.
pub(crate) fn check_channels(format: PixelFormat, codec: Option<&CodecInfo>) -> FfiResult {
    match codec {
        Some(codec) if codec.image_channels > format.channels() => {
            let expected = format!("a format of {} channels, as the images have", codec.image_channels);
            Err(FfiError::argument("pixel_format", expected, "a grey format"))
        }
        _ => Ok(()),
    }
}

/// Size in bytes of `n` images of `height` × `width` pixels, checked for overflow.
pub(crate) fn pixel_bytes(format: PixelFormat, n: usize, height: usize, width: usize) -> FfiResult<usize> {
    let bytes = format.image_bytes(height, width).and_then(|per_image| per_image.checked_mul(n));
    let fits = bytes.filter(|&b| b <= isize::MAX as usize);
    fits.ok_or_else(|| {
        FfiError::argument("images", "a size that fits in memory", format!("{n} × {height} × {width}"))
    })
}

/// Returns the size in bytes of one image of `height` × `width` pixels; 0 for an unknown format or a size that does not fit
/// in memory. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_image_bytes(pixel_format: u32, height: usize, width: usize) -> usize {
    let bytes = || pixel_bytes(self::pixel_format(pixel_format)?, 1, height, width);
    guard_value(0, || bytes().unwrap_or(0))
}
