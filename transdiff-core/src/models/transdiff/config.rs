//! Configuration of the model.

use crate::diffusion::Preset;
use serde::{Deserialize, Serialize};

use crate::models::generator::{FeatureShape, GeneratorInfo, check_labels};
use crate::{Error, Result};

/// Mode in which the autoregressive transformer produces features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All features at once, with bidirectional attention (paper §3.5.1).
    OneStep,
    /// Multi-reference autoregression (paper §3.5.2): features in `groups` groups, each after the first seeing
    /// an earlier image of the same class, with block-causal attention.
    MultiReference {
        /// Number of groups: images per sample in training, AR steps in generation.
        groups: usize,
    },
}

/// The published sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 290 M parameters.
    Base,
    /// 683 M parameters.
    Large,
    /// 1328 M parameters.
    Huge,
}

/// Configuration of a model: every size, and the kind of its decoder. Two models with equal configurations have the same parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransDiffConfig {
    /// Width D of AR transformer and decoder.
    pub width: usize,
    /// Attention heads of AR transformer and decoder; divides `width`.
    pub heads: usize,
    /// Blocks of the autoregressive transformer.
    pub encoder_blocks: usize,
    /// Blocks of the diffusion decoder.
    pub decoder_blocks: usize,
    /// Hidden width of the blocks' MLPs, as a multiple of `width`.
    pub mlp_ratio: usize,
    /// Number of classes.
    pub classes: usize,
    /// Number of class tokens at the beginning of the sequence.
    pub buffer_size: usize,
    /// Number S of semantic features.
    pub feature_tokens: usize,
    /// Channels C of the latent.
    pub latent_channels: usize,
    /// Side of the square latent: image side / 16 with the published VAE.
    pub latent_size: usize,
    /// One step or multi-reference autoregression.
    pub mode: Mode,
    /// True for a model whose decoder was [distilled](super::Distillation) into a consistency function: generation takes a few steps
    /// of the solver [`Consistency`](crate::diffusion::Consistency), without guidance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distilled: bool,
}

impl TransDiffConfig {
    /// Metadata key under which files carry the configuration.
    pub const METADATA_KEY: &str = "transdiff.config";

    /// A published model for images of side `resolution` (a multiple of 16; 256 or 512 in the paper).
    ///
    /// # Errors
    /// [`Error::Config`] if the resolution is not a multiple of 16 or does not match the mode.
    pub fn published(size: Size, resolution: usize, mode: Mode) -> Result<Self> {
        if resolution == 0 || !resolution.is_multiple_of(16) {
            return Err(Error::config("resolution", "a positive multiple of 16", resolution));
        }
        let (width, heads, decoder_blocks) = match size {
            Size::Base => (768, 12, 12),
            Size::Large => (1024, 16, 16),
            Size::Huge => (1280, 16, 20),
        };
        let config = Self {
            width,
            heads,
            encoder_blocks: 2 * decoder_blocks,
            decoder_blocks,
            mlp_ratio: 4,
            classes: 1000,
            buffer_size: 64,
            feature_tokens: 256,
            latent_channels: 16,
            latent_size: resolution / 16,
            mode,
            distilled: false,
        };
        config.validate()?;
        Ok(config)
    }

    /// Returns true if the tensor `name` is a weight that [`Precision::INT8`](crate::Precision::INT8) has as 8-bit integers:
    /// those of the linear layers of the blocks, but for the first block of the decoder. That one sees the noise of the latents,
    /// near the image a small part of them, and would have most of the error there. The layers outside of blocks are small.
    pub fn is_quantized(name: &str) -> bool {
        const LAYERS: [&str; 7] = ["qkv", "wq", "wk", "wv", "proj", "fc1", "fc2"];
        let mut parts = name.rsplit('.');
        parts.next() == Some("weight")
            && parts.next().is_some_and(|layer| LAYERS.contains(&layer))
            && parts.any(|part| part.ends_with("_blocks"))
            && !name.contains("res_blocks.0.")
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that does not.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("width", self.width),
            ("heads", self.heads),
            ("encoder_blocks", self.encoder_blocks),
            ("decoder_blocks", self.decoder_blocks),
            ("mlp_ratio", self.mlp_ratio),
            ("classes", self.classes),
            ("buffer_size", self.buffer_size),
            ("feature_tokens", self.feature_tokens),
            ("latent_channels", self.latent_channels),
            ("latent_size", self.latent_size),
        ];
        // Generous, but products of sizes stay far from overflow, and a malformed file from absurd allocations.
        const LIMIT: usize = 1 << 20;
        for (field, value) in positive {
            if value == 0 || value > LIMIT {
                return Err(Error::config(field, format!("a number in 1..={LIMIT}"), value));
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(Error::config("heads", format!("a divisor of width {}", self.width), self.heads));
        }
        // Each block is a dozen tensors even before it has elements.
        const DEPTH_LIMIT: usize = 1 << 12;
        for (field, value) in
            [("encoder_blocks", self.encoder_blocks), ("decoder_blocks", self.decoder_blocks)]
        {
            if value > DEPTH_LIMIT {
                return Err(Error::config(field, format!("a number in 1..={DEPTH_LIMIT}"), value));
            }
        }
        // Sizes that are possible individually may not be possible together.
        const LARGEST: u128 = 1 << 40;
        let inner = self.mlp_ratio.max(6).max(self.latent_channels * self.latent_size) as u128;
        let product = self.width as u128 * inner * self.width.max(self.latent_size) as u128;
        if product > LARGEST {
            let expected = format!("sizes whose weights have at most {LARGEST} values each");
            return Err(Error::config("width", expected, format!("about {product}")));
        }
        let Mode::MultiReference { groups } = self.mode else { return Ok(()) };
        if groups == 0 || !self.feature_tokens.is_multiple_of(groups) {
            let expected = format!("a divisor of feature_tokens {}", self.feature_tokens);
            return Err(Error::config("groups", expected, groups));
        }
        let side = self.group_side();
        if side * side != self.group_tokens() {
            let expected = format!("feature_tokens / groups to be a square, not {}", self.group_tokens());
            return Err(Error::config("groups", expected, groups));
        }
        if !self.latent_size.is_multiple_of(side) {
            let expected =
                format!("groups of {side}×{side} tokens to divide latent_size {}", self.latent_size);
            return Err(Error::config("groups", expected, groups));
        }
        Ok(())
    }

    /// Number of feature groups: 1 in one step.
    pub fn groups(&self) -> usize {
        match self.mode {
            Mode::OneStep => 1,
            Mode::MultiReference { groups } => groups,
        }
    }

    /// Features of one group.
    pub fn group_tokens(&self) -> usize {
        self.feature_tokens / self.groups()
    }

    fn group_side(&self) -> usize {
        self.group_tokens().isqrt()
    }

    /// Patch size p of references; 1 without references.
    pub fn reference_patch(&self) -> usize {
        match self.mode {
            Mode::OneStep => 1,
            Mode::MultiReference { .. } => self.latent_size / self.group_side(),
        }
    }

    /// Inputs of `z_proj`: values of one reference patch.
    pub fn reference_features(&self) -> usize {
        self.latent_channels * self.reference_patch().pow(2)
    }

    /// Rows of `mask_token`.
    pub fn mask_rows(&self) -> usize {
        match self.mode {
            Mode::OneStep => 1,
            Mode::MultiReference { .. } => self.group_tokens(),
        }
    }

    /// Tokens of the decoder: positions of the latent.
    pub fn decoder_tokens(&self) -> usize {
        self.latent_size * self.latent_size
    }

    /// Shape [batch, C, h, w] of latents.
    pub fn latent_shape(&self, batch: usize) -> [usize; 4] {
        [batch, self.latent_channels, self.latent_size, self.latent_size]
    }

    /// Description as a generator.
    pub fn generator_info(&self) -> GeneratorInfo {
        GeneratorInfo {
            model: "TransDiff",
            classes: self.classes,
            code_shape: [self.latent_channels, self.latent_size, self.latent_size],
            ar_steps: self.groups(),
            multi_reference: self.mode != Mode::OneStep,
            features: Some(FeatureShape {
                count: self.feature_tokens,
                per_ar_step: self.group_tokens(),
                width: self.width,
            }),
            preset: self.preset().unwrap_or(Preset::PLAIN),
            distilled: self.distilled,
        }
    }

    /// The same model in another mode.
    #[must_use]
    pub fn with_mode(&self, mode: Mode) -> Self {
        Self { mode, ..self.clone() }
    }

    /// Checks that every label names a class.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check_labels(&self, labels: &[usize]) -> Result<()> {
        check_labels(labels, self.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MRAR: Mode = Mode::MultiReference { groups: 4 };

    #[test]
    fn presets_have_the_published_sizes() {
        let base = TransDiffConfig::published(Size::Base, 256, MRAR).unwrap();
        assert_eq!((base.group_tokens(), base.reference_patch(), base.reference_features()), (64, 2, 64));
        let large = TransDiffConfig::published(Size::Large, 512, Mode::OneStep).unwrap();
        assert_eq!((large.decoder_tokens(), large.feature_tokens, large.mask_rows()), (1024, 256, 1));
        assert_eq!(TransDiffConfig::published(Size::Large, 512, MRAR).unwrap().reference_patch(), 4);
    }

    #[test]
    fn bad_sizes_are_named() {
        let base = TransDiffConfig::published(Size::Base, 256, Mode::OneStep).unwrap();
        let field = |config: TransDiffConfig| match config.validate() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a config error, got {other:?}"),
        };
        assert_eq!(field(TransDiffConfig { heads: 5, ..base.clone() }), "heads");
        assert_eq!(field(TransDiffConfig { width: 0, ..base.clone() }), "width");
        assert_eq!(field(TransDiffConfig { latent_size: usize::MAX, ..base.clone() }), "latent_size");
        for groups in [0, 3, 8, 256 * 2] {
            assert_eq!(field(base.with_mode(Mode::MultiReference { groups })), "groups");
        }
        assert!(TransDiffConfig::published(Size::Base, 250, Mode::OneStep).is_err());
    }
}
