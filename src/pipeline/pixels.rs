//! Pixel formats: bytes or floats, coloured or grey, interleaved or planar.

use transdiff_core::try_with_capacity;

use crate::{Error, HostTensor, Result};

/// Order and type of an image's elements in memory. Formats of three colours take grey images too, with three equal
/// values per pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Bytes, interleaved by pixel, row by row, as PNG writers take them.
    Rgb8Hwc,
    /// Bytes, one plane per colour.
    Rgb8Chw,
    /// f32 in [-1, 1], interleaved by pixel.
    F32Hwc,
    /// f32 in [-1, 1], one plane per colour: the order of the model.
    F32Chw,
    /// Bytes, one per pixel, for grey images only.
    Gray8,
    /// f32 in [-1, 1], one per pixel, for grey images only.
    GrayF32,
}

impl PixelFormat {
    /// Values per pixel: 1 or 3.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb8Hwc | Self::Rgb8Chw | Self::F32Hwc | Self::F32Chw => 3,
            Self::Gray8 | Self::GrayF32 => 1,
        }
    }

    /// Size in bytes of an image of `height`×`width` pixels; `None` on overflow.
    pub fn image_bytes(self, height: usize, width: usize) -> Option<usize> {
        height.checked_mul(width)?.checked_mul(self.channels())?.checked_mul(self.value_bytes())
    }

    /// Size of an element in bytes.
    pub fn value_bytes(self) -> usize {
        match self {
            Self::Rgb8Hwc | Self::Rgb8Chw | Self::Gray8 => 1,
            Self::F32Hwc | Self::F32Chw | Self::GrayF32 => size_of::<f32>(),
        }
    }

    fn interleaves(self) -> bool {
        matches!(self, Self::Rgb8Hwc | Self::F32Hwc)
    }

    /// Index, in planes of `area` pixels, of the element at `index` in memory.
    fn planar(self, index: usize, area: usize) -> usize {
        let channels = self.channels();
        if self.interleaves() { index % channels * area + index / channels } else { index }
    }
}

/// Writes images [n, c, H, W] in [-1, 1], c being 1 or 3, to `out` in `format`, one after another. Bytes are
/// 255·(x + 1)/2, clamped and rounded to nearest even; floats are unchanged.
///
/// # Errors
/// [`Error::Shape`] for a tensor of another shape, and for coloured images in a grey format, [`Error::DType`] for a tensor
/// that is not f32, [`Error::Argument`] if `out` does not have the size of the images.
pub fn to_pixels(images: &HostTensor, format: PixelFormat, out: &mut [u8]) -> Result<()> {
    let (n, channels, h, w) = extent(images, format)?;
    let bytes = format.image_bytes(h, w).and_then(|each| each.checked_mul(n));
    if bytes != Some(out.len()) {
        let expected = bytes.map_or_else(|| "a size that fits in memory".into(), |b| format!("{b} bytes"));
        return Err(Error::argument("image buffer", expected, format!("{} bytes", out.len())));
    }
    let wrong = || Error::DType { op: "to_pixels", expected: "f32".into(), got: images.dtype() };
    let values = images.as_f32().ok_or_else(wrong)?;
    let area = h * w;
    if area == 0 {
        return Ok(());
    }
    let size = format.value_bytes();
    let outs = out.chunks_exact_mut(format.channels() * area * size);
    for (image, out) in values.chunks_exact(channels * area).zip(outs) {
        for (i, out) in out.chunks_exact_mut(size).enumerate() {
            // A grey image has one plane for all colours.
            let x = image[format.planar(i, area) % (channels * area)];
            match size {
                1 => out[0] = to_byte(x),
                _ => out.copy_from_slice(&x.to_ne_bytes()),
            }
        }
    }
    Ok(())
}

/// Reads images [n, c, H, W] in [-1, 1] from `bytes`, which holds `n` images of `height`×`width` pixels in `format`, one
/// after another; c is 1 for grey formats and 3 for the others. A byte b is 2·b/255 − 1.
///
/// # Errors
/// [`Error::Argument`] if `bytes` does not have the size of the images, or a float is not finite.
pub fn from_pixels(
    bytes: &[u8],
    format: PixelFormat,
    n: usize,
    height: usize,
    width: usize,
) -> Result<HostTensor> {
    let want = format.image_bytes(height, width).and_then(|each| each.checked_mul(n));
    if want != Some(bytes.len()) {
        let expected = want.map_or_else(|| "a size that fits in memory".into(), |b| format!("{b} bytes"));
        return Err(Error::argument("images", expected, format!("{} bytes", bytes.len())));
    }
    let (size, area, channels) = (format.value_bytes(), height * width, format.channels());
    let mut values = try_with_capacity("from_pixels", bytes.len() / size)?;
    values.resize(bytes.len() / size, 0.0);
    for (i, value) in bytes.chunks_exact(size).enumerate() {
        let (image, at) = (i / (channels * area), i % (channels * area));
        values[image * channels * area + format.planar(at, area)] = match *value {
            [byte] => f32::from(byte) / 127.5 - 1.0,
            _ => f32::from_ne_bytes(value.try_into().expect("four bytes")),
        };
    }
    if values.iter().any(|x: &f32| !x.is_finite()) {
        return Err(Error::argument("images", "finite values", "a NaN or an infinity"));
    }
    HostTensor::f32(&[n, channels, height, width], values)
}

fn to_byte(x: f32) -> u8 {
    // In f64, so that only the result is rounded.
    ((f64::from(x) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8
}

/// Shape of images that can be written in `format`.
fn extent(images: &HostTensor, format: PixelFormat) -> Result<(usize, usize, usize, usize)> {
    match (images.shape(), format.channels()) {
        (&[n, c @ (1 | 3), h, w], 3) | (&[n, c @ 1, h, w], 1) => Ok((n, c, h, w)),
        (other, 1) => Err(Error::shape("to_pixels", "[n, 1, H, W] for a grey format", other)),
        (other, _) => Err(Error::shape("to_pixels", "[n, 3, H, W] or [n, 1, H, W]", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: [PixelFormat; 4] =
        [PixelFormat::Rgb8Hwc, PixelFormat::Rgb8Chw, PixelFormat::F32Hwc, PixelFormat::F32Chw];
    const GREY: [PixelFormat; 2] = [PixelFormat::Gray8, PixelFormat::GrayF32];

    #[test]
    fn every_format_round_trips() {
        let (n, h, w) = (2, 3, 5);
        for format in COLOURED.into_iter().chain(GREY) {
            let values = 0..n * h * w * format.channels();
            let bytes: Vec<u8> = match format.value_bytes() {
                1 => values.map(|i| (i * 37 % 256) as u8).collect(),
                _ => values.flat_map(|i| (i as f32 / 45.0 - 1.0).to_ne_bytes()).collect(),
            };
            let images = from_pixels(&bytes, format, n, h, w).unwrap();
            assert_eq!(images.shape(), [n, format.channels(), h, w]);
            let mut back = vec![0; bytes.len()];
            to_pixels(&images, format, &mut back).unwrap();
            assert_eq!(back, bytes, "{format:?}");
        }
    }

    #[test]
    fn planar_and_interleaved_hold_the_same_elements() {
        let planes: Vec<f32> = (0..12).map(|i| i as f32 / 10.0 - 0.5).collect();
        let images = HostTensor::f32(&[1, 3, 2, 2], planes.clone()).unwrap();
        let mut out = vec![0; 48];
        to_pixels(&images, PixelFormat::F32Hwc, &mut out).unwrap();
        let value = |i: usize| f32::from_ne_bytes(out[4 * i..4 * i + 4].try_into().unwrap());
        // The second pixel: the second value of each plane.
        assert_eq!([value(3), value(4), value(5)], [planes[1], planes[5], planes[9]]);
    }

    #[test]
    fn grey_images_have_three_equal_colours() {
        let planes = [[-1.0, 0.25, 1.0], [0.5, -0.5, 0.0]].concat();
        let images = HostTensor::f32(&[2, 1, 1, 3], planes.clone()).unwrap();
        let bytes = [[0, 159, 255], [191, 64, 128]];
        let written = |format: PixelFormat| {
            let mut out = vec![0; 2 * format.image_bytes(1, 3).unwrap()];
            to_pixels(&images, format, &mut out).unwrap();
            out
        };
        assert_eq!(written(PixelFormat::Gray8), bytes.concat());
        assert_eq!(
            written(PixelFormat::Rgb8Hwc),
            bytes.concat().iter().flat_map(|&b| [b; 3]).collect::<Vec<_>>()
        );
        assert_eq!(written(PixelFormat::Rgb8Chw), bytes.map(|image| image.repeat(3)).concat());
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        assert_eq!(written(PixelFormat::GrayF32), floats(&planes));
        let repeated = [planes[..3].repeat(3), planes[3..].repeat(3)].concat();
        assert_eq!(written(PixelFormat::F32Chw), floats(&repeated));
        let coloured = HostTensor::f32(&[1, 3, 1, 1], vec![0.0; 3]).unwrap();
        for format in GREY {
            let error = to_pixels(&coloured, format, &mut vec![0; format.value_bytes()]).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
    }

    #[test]
    fn bytes_are_clamped_and_rounded() {
        let bytes = [-7.0, -1.0, 0.0, 1.0, 2.0, 1.0 / 255.0, -1.0 / 255.0].map(to_byte);
        assert_eq!(bytes, [0, 0, 128, 255, 255, 128, 127]);
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let images = HostTensor::f32(&[1, 3, 2, 2], vec![0.0; 12]).unwrap();
        assert!(to_pixels(&images, PixelFormat::Rgb8Hwc, &mut [0; 11]).is_err());
        assert!(
            to_pixels(
                &HostTensor::f32(&[3, 2, 2], vec![0.0; 12]).unwrap(),
                PixelFormat::Rgb8Hwc,
                &mut [0; 12]
            )
            .is_err()
        );
        assert!(from_pixels(&[0; 12], PixelFormat::Rgb8Hwc, usize::MAX, usize::MAX, 2).is_err());
        let nan = f32::NAN.to_ne_bytes().repeat(3);
        assert!(from_pixels(&nan, PixelFormat::F32Chw, 1, 1, 1).is_err());
    }
}
