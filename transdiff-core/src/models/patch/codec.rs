//! Space-to-depth.

use crate::models::codec::check_seeds;
use crate::models::{Codec, CodecInfo, ElementCount};
use crate::{Backend, CancellationToken, Error, Result, Tensor};

/// Largest side of a patch in pixels.
const MAX_PATCH: usize = 256;

/// Space-to-depth: the pixels of a patch become the channels of a position, and back. It has no parameters and is exact.
///
/// Codes of images [n, c, h·N, w·N] are [n, c·N², h, w] with the channels in the order (colour, row in the patch, column
/// in the patch), as `pixel_unshuffle` of PyTorch makes them. Their scale is 1: they are in [-1, 1] as the images are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchCodec {
    patch: usize,
    channels: usize,
}

impl PatchCodec {
    /// A codec of patches of `patch`×`patch` pixels, 1 to 256, in images of `channels` colour channels, 1 or 3.
    ///
    /// # Errors
    /// [`Error::Config`] for another number.
    pub fn new(patch: usize, channels: usize) -> Result<Self> {
        if !(1..=MAX_PATCH).contains(&patch) {
            return Err(Error::config("patch", format!("a side of 1 to {MAX_PATCH} pixels"), patch));
        }
        if ![1, 3].contains(&channels) {
            return Err(Error::config("channels", "1 or 3 colour channels", channels));
        }
        Ok(Self { patch, channels })
    }

    /// The codec whose codes have `code_channels` channels: N² for grey images, 3·N² for coloured ones.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none.
    pub fn for_codes(patch: usize, code_channels: usize) -> Result<Self> {
        let [grey, coloured] = [Self::new(patch, 1)?, Self::new(patch, 3)?];
        let found = [grey, coloured].into_iter().find(|codec| codec.code_channels() == code_channels);
        found.ok_or_else(|| {
            let (one, three) = (grey.code_channels(), coloured.code_channels());
            let expected = format!("{one} or {three}, as patches of {patch}×{patch} pixels have");
            Error::config("latent_channels", expected, code_channels)
        })
    }

    /// Side of a patch in pixels.
    pub fn patch(&self) -> usize {
        self.patch
    }

    fn code_channels(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Description of the codec.
    pub fn codec_info(&self) -> CodecInfo {
        CodecInfo {
            codec: "patches",
            image_channels: self.channels,
            code_channels: self.code_channels(),
            downsampling: self.patch,
            latent_scale: None,
        }
    }

    /// Elements in memory while codes of `code_size` are decoded.
    pub fn decoding_elements(&self, code_size: [usize; 2]) -> ElementCount {
        let positions = (code_size[0] as u64).saturating_mul(code_size[1] as u64);
        // The image, and its copy on the host.
        ElementCount { fixed: 0, per_image: positions.saturating_mul(2 * self.code_channels() as u64) }
    }
}

impl<B: Backend> Codec<B> for PatchCodec {
    fn info(&self) -> CodecInfo {
        self.codec_info()
    }

    fn param_count(&self) -> usize {
        0
    }

    /// There is no posterior: `seeds` change nothing.
    fn encode_images(
        &self,
        images: &Tensor<B>,
        seeds: Option<&[u64]>,
        token: &CancellationToken,
    ) -> Result<Tensor<B>> {
        token.check()?;
        let (c, p) = (self.channels, self.patch);
        let (n, h, w) = match *images.shape() {
            [n, channels, h, w] if channels == c && h * w > 0 && h % p == 0 && w % p == 0 => {
                (n, h / p, w / p)
            }
            _ => {
                let expected = format!("images [n, {c}, H, W] with H and W multiples of {p}");
                return Err(Error::shape("PatchCodec::encode_images", expected, images.shape()));
            }
        };
        seeds.map_or(Ok(()), |seeds| check_seeds(seeds, n))?;
        let patches = images.reshape(&[n, c, h, p, w, p])?.permute(&[0, 1, 3, 5, 2, 4])?;
        finite(patches.reshape(&[n, self.code_channels(), h, w])?, "patch encoder")
    }

    fn decode_codes(&self, codes: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        token.check()?;
        let (c, p) = (self.channels, self.patch);
        let (n, h, w) = match *codes.shape() {
            [n, channels, h, w] if channels == self.code_channels() && h * w > 0 => (n, h, w),
            _ => {
                let expected = format!("codes [n, {}, h, w], not empty", self.code_channels());
                return Err(Error::shape("PatchCodec::decode_codes", expected, codes.shape()));
            }
        };
        let pixels = codes.reshape(&[n, c, p, p, h, w])?.permute(&[0, 1, 4, 2, 5, 3])?;
        finite(pixels.reshape(&[n, c, h * p, w * p])?, "patch decoder")
    }
}

fn finite<B: Backend>(result: Tensor<B>, stage: &'static str) -> Result<Tensor<B>> {
    if result.is_finite()? { Ok(result) } else { Err(Error::NonFinite { stage }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::models::Encoded;
    use crate::reference::Reference;

    fn images(shape: &[usize]) -> Tensor<Reference> {
        let values = (0..shape.iter().product()).map(|i: usize| (i * 7 % 256) as f32 / 127.5 - 1.0).collect();
        Tensor::from_f32(&Reference, shape, values, DType::F32).unwrap()
    }

    /// PyTorch's `pixel_unshuffle`, element by element.
    fn pixel_unshuffle(x: &[f64], [n, c, h, w]: [usize; 4], p: usize) -> Vec<f64> {
        let (rows, columns) = (h / p, w / p);
        let mut out = vec![f64::NAN; x.len()];
        for (i, value) in x.iter().enumerate() {
            let (x, y, colour, image) = (i % w, i / w % h, i / (w * h) % c, i / (w * h * c));
            assert!(image < n);
            let channel = (colour * p + y % p) * p + x % p;
            out[((image * c * p * p + channel) * rows + y / p) * columns + x / p] = *value;
        }
        out
    }

    #[test]
    fn layout_is_that_of_pixel_unshuffle_and_decoding_inverts_it() {
        let token = CancellationToken::new();
        for (patch, [n, c, h, w]) in
            [(1, [1, 3, 2, 3]), (2, [2, 3, 4, 6]), (4, [3, 1, 8, 4]), (3, [1, 3, 3, 9]), (2, [0, 1, 2, 2])]
        {
            let codec = PatchCodec::new(patch, c).unwrap();
            let images = images(&[n, c, h, w]);
            let codes = codec.encode_images(&images, None, &token).unwrap();
            assert_eq!(codes.shape(), [n, c * patch * patch, h / patch, w / patch]);
            let expected = pixel_unshuffle(&images.to_f64().unwrap(), [n, c, h, w], patch);
            assert_eq!(codes.to_f64().unwrap(), expected, "patch {patch}");
            let back = codec.decode_codes(&codes, &token).unwrap();
            assert_eq!((back.shape(), back.to_f64().unwrap()), (images.shape(), images.to_f64().unwrap()));
            let seeds = vec![5; n];
            let drawn = codec.encode_images(&images, Some(&seeds), &token).unwrap();
            assert_eq!(drawn.to_f64().unwrap(), expected);
            let Encoded::Codes(kept) = codec.encode_moments(&images, &token).unwrap() else {
                panic!("patches have no posterior");
            };
            assert_eq!(kept.to_f64().unwrap(), expected);
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let config = |patch, channels| PatchCodec::new(patch, channels).unwrap_err().to_string();
        assert_eq!(config(0, 3), "config value patch: expected a side of 1 to 256 pixels, got 0");
        assert!(config(usize::MAX, 3).contains("config value patch"));
        assert_eq!(config(4, 2), "config value channels: expected 1 or 3 colour channels, got 2");
        let channels = |patch, codes| {
            PatchCodec::for_codes(patch, codes).map(|codec| codec.codec_info().image_channels).ok()
        };
        assert_eq!([channels(4, 16), channels(4, 48), channels(4, 32)], [Some(1), Some(3), None]);
        let (codec, token) = (PatchCodec::new(2, 1).unwrap(), CancellationToken::new());
        for shape in [&[1, 3, 2, 2][..], &[1, 1, 3, 2], &[1, 1, 2, 0], &[1, 2, 2]] {
            let error = codec.encode_images(&images(shape), None, &token).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{shape:?}: {error}");
        }
        for shape in [&[1, 3, 2, 2][..], &[1, 4, 0, 2], &[4, 2, 2]] {
            let error = codec.decode_codes(&images(shape), &token).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{shape:?}: {error}");
        }
        let error = codec.encode_images(&images(&[2, 1, 2, 2]), Some(&[1]), &token).unwrap_err();
        assert!(matches!(error, Error::Argument { argument: "seeds", .. }), "{error}");
        let nan = Tensor::from_f32(&Reference, &[1, 4, 1, 1], vec![f32::NAN; 4], DType::F32).unwrap();
        assert!(matches!(codec.decode_codes(&nan, &token), Err(Error::NonFinite { .. })));
        token.cancel();
        assert!(matches!(codec.decode_codes(&nan, &token), Err(Error::Cancelled)));
    }
}
