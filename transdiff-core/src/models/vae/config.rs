//! Configuration of the autoencoder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layers::NORM_GROUPS;
use crate::models::CodecInfo;
use crate::{Error, Result};

/// Factor that the published models multiply latents with before they work on them, and divide by before
/// [`Vae::decode`](super::Vae::decode): it brings the published VAE's latents to a variance of about 1.
pub const LATENT_SCALE: f64 = 0.2325;

/// Configuration of the autoencoder: every size. Two with equal configurations have the same parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of an image.
    pub image_channels: usize,
    /// Channels C of the latent.
    pub latent_channels: usize,
    /// Base number of channels, which the multipliers multiply; a multiple of 32.
    pub channels: usize,
    /// Channels per level, as multiples of `channels`, from the finest level on. Each level halves the sides of the one
    /// before.
    pub multipliers: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub res_blocks: usize,
    /// Levels of the encoder whose residual blocks are each followed by attention, ascending; 0 is the finest.
    /// (The mid blocks of encoder and decoder have attention in any case.)
    pub attention: Vec<usize>,
}

impl VaeConfig {
    /// Metadata key under which files carry the configuration.
    pub const METADATA_KEY: &str = "transdiff.vae";

    /// KL-16: 66.46 M parameters, 16 latent channels, sides 1/16 of the image's.
    pub fn published() -> Self {
        Self {
            image_channels: 3,
            latent_channels: 16,
            channels: 128,
            multipliers: vec![1, 1, 2, 2, 4],
            res_blocks: 2,
            attention: vec![4],
        }
    }

    /// Description as a codec.
    pub fn codec_info(&self) -> CodecInfo {
        CodecInfo {
            codec: "KL-VAE",
            image_channels: self.image_channels,
            code_channels: self.latent_channels,
            downsampling: self.downsampling(),
            latent_scale: Some(LATENT_SCALE),
        }
    }

    /// Configuration of the autoencoder whose tensors have these names and shapes; other names are ignored.
    /// Errors name the file `path`.
    ///
    /// # Errors
    /// [`Error::TensorNames`] or [`Error::Tensor`] if a tensor that tells a size is missing or has another number of
    /// axes; [`Error::Config`] if the sizes do not fit together.
    pub fn from_shapes<'a>(
        path: &Path,
        shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<Self> {
        let shapes = Shapes { path, of: shapes.into_iter().collect() };
        let [channels, image_channels] = shapes.weight("encoder.conv_in.weight")?;
        let [latent_channels, _] = shapes.weight("post_quant_conv.weight")?;
        let first = |level| format!("encoder.down.{level}.block.0.conv1.weight");
        let levels = shapes.count(first).max(1);
        let widths = (0..levels).map(|level| Ok(shapes.weight(&first(level))?[0]));
        let widths = widths.collect::<Result<Vec<_>>>()?;
        if let Some(&width) = widths.iter().find(|&&w| channels == 0 || !w.is_multiple_of(channels)) {
            return Err(Error::config("multipliers", format!("levels of multiples of {channels}"), width));
        }
        let config = Self {
            image_channels,
            latent_channels,
            channels,
            multipliers: widths.into_iter().map(|w| w / channels).collect(),
            res_blocks: shapes.count(|block| format!("encoder.down.0.block.{block}.conv1.weight")),
            attention: (0..levels)
                .filter(|level| shapes.of.contains_key(&*format!("encoder.down.{level}.attn.0.q.weight")))
                .collect(),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that does not.
    pub fn validate(&self) -> Result<()> {
        // Generous, but a malformed file is far from absurd allocations.
        const LIMIT: usize = 1 << 14;
        const LEVELS: usize = 16;
        if self.multipliers.is_empty() || self.multipliers.len() > LEVELS {
            let got = self.multipliers.len();
            return Err(Error::config("multipliers", format!("between 1 and {LEVELS} levels"), got));
        }
        let multipliers = self.multipliers.iter().map(|&m| ("multipliers", m, LIMIT));
        let sizes = [
            ("image_channels", self.image_channels, LIMIT),
            ("latent_channels", self.latent_channels, LIMIT),
            ("channels", self.channels, LIMIT),
            ("res_blocks", self.res_blocks, 16),
        ];
        for (field, value, limit) in sizes.into_iter().chain(multipliers) {
            if value == 0 || value > limit {
                return Err(Error::config(field, format!("a number in 1..={limit}"), value));
            }
        }
        if !self.channels.is_multiple_of(NORM_GROUPS) {
            return Err(Error::config("channels", format!("a multiple of {NORM_GROUPS}"), self.channels));
        }
        if let Some(widest) = (0..self.multipliers.len()).map(|l| self.width(l)).find(|&w| w > LIMIT) {
            return Err(Error::config("multipliers", format!("levels of at most {LIMIT} channels"), widest));
        }
        let ascending = self.attention.windows(2).all(|w| w[0] < w[1]);
        if !ascending || self.attention.last().is_some_and(|&l| l >= self.multipliers.len()) {
            let expected = format!("ascending levels below {}", self.multipliers.len());
            return Err(Error::config("attention", expected, format!("{:?}", self.attention)));
        }
        Ok(())
    }

    /// Channels of a level.
    pub(super) fn width(&self, level: usize) -> usize {
        self.channels * self.multipliers[level]
    }

    /// Channels of the coarsest level.
    pub(super) fn deepest(&self) -> usize {
        self.width(self.multipliers.len() - 1)
    }

    /// Pixels per position of the latent, along each side.
    pub fn downsampling(&self) -> usize {
        1 << (self.multipliers.len() - 1)
    }
}

/// Shapes of a file's tensors, by name.
struct Shapes<'a> {
    path: &'a Path,
    of: BTreeMap<&'a str, &'a [usize]>,
}

impl Shapes<'_> {
    /// Output and input channels of a convolution.
    fn weight(&self, name: &str) -> Result<[usize; 2]> {
        match self.of.get(name) {
            Some(&&[outputs, inputs, _, _]) => Ok([outputs, inputs]),
            Some(other) => Err(Error::Tensor {
                path: self.path.to_owned(),
                tensor: name.to_owned(),
                expected: "a weight [O, C, K, K]".to_owned(),
                got: format!("{other:?}"),
            }),
            None => {
                let (path, missing) = (self.path.to_owned(), vec![name.to_owned()]);
                Err(Error::TensorNames { path, missing, extra: Vec::new() })
            }
        }
    }

    /// Number of consecutive indices, from 0, for which the name exists.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&i| self.of.contains_key(&*name(i))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sizes_are_named() {
        let published = VaeConfig::published();
        assert_eq!((published.downsampling(), published.deepest()), (16, 512));
        let field = |config: VaeConfig| match config.validate() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a config error, got {other:?}"),
        };
        assert_eq!(field(VaeConfig { channels: 100, ..published.clone() }), "channels");
        assert_eq!(field(VaeConfig { channels: usize::MAX, ..published.clone() }), "channels");
        assert_eq!(field(VaeConfig { res_blocks: 0, ..published.clone() }), "res_blocks");
        assert_eq!(field(VaeConfig { latent_channels: 0, ..published.clone() }), "latent_channels");
        for multipliers in [vec![], vec![1; 17], vec![1, 0], vec![1 << 13]] {
            let attention = Vec::new();
            assert_eq!(field(VaeConfig { multipliers, attention, ..published.clone() }), "multipliers");
        }
        for attention in [vec![5], vec![2, 1], vec![1, 1]] {
            assert_eq!(field(VaeConfig { attention, ..published.clone() }), "attention");
        }
    }

    #[test]
    fn shapes_without_a_size_are_errors() {
        let path = Path::new("vae");
        let from = |shapes: &[(&str, &[usize])]| VaeConfig::from_shapes(path, shapes.iter().copied());
        let missing = from(&[("encoder.conv_in.weight", &[32, 3, 3, 3])]);
        assert!(
            matches!(missing, Err(Error::TensorNames { missing, .. }) if missing == ["post_quant_conv.weight"])
        );
        let odd = from(&[("encoder.conv_in.weight", &[32, 3])]);
        assert!(matches!(odd, Err(Error::Tensor { tensor, .. }) if tensor == "encoder.conv_in.weight"));
        let ragged = from(&[
            ("encoder.conv_in.weight", &[64, 3, 3, 3]),
            ("post_quant_conv.weight", &[4, 4, 1, 1]),
            ("encoder.down.0.block.0.conv1.weight", &[96, 64, 3, 3]),
        ]);
        assert!(matches!(ragged, Err(Error::Config { field: "multipliers", .. })));
    }
}
