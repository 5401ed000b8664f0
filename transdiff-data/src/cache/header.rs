//! Header of a cache.

use serde::{Deserialize, Serialize};
use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::{DType, Error, Result};

use crate::pictures::Fit;

/// Version of the format.
pub(super) const VERSION: u32 = 1;
/// Elements that a latent may have: 64 channels of 512 × 512.
const MAX_ELEMENTS: usize = 1 << 24;
/// Entries that a shard may have.
const MAX_SHARD_ENTRIES: usize = 1 << 16;

/// Kind of the stored items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// Moments [2C, h, w] of a posterior, without latent scale: means, then log-variances. A latent is drawn from them at
    /// every read.
    Moments,
    /// Latents [C, h, w] of a codec without posterior, as the model uses them.
    Latents,
}

impl ItemKind {
    /// Name of the kind, and of its tensor in the shards.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moments => "moments",
            Self::Latents => "latents",
        }
    }
}

/// Everything about a cache but its pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheSpec {
    /// Codec, channels and size of the pictures, and names of the classes.
    pub images: ImageSpec,
    /// Fit of the pictures to the size.
    pub fit: Fit,
    /// `true` if the latents of mirror images are stored too.
    pub flip: bool,
    /// Kind of the stored items.
    pub items: ItemKind,
    /// Shape [C, h, w] of a latent.
    pub shape: [usize; 3],
    /// Factor that brings a draw from moments to the scale that the model uses; 1 for latents.
    pub latent_scale: f64,
    /// Stored element type, f32 or bf16.
    pub dtype: DType,
    /// Entries per shard, usually [`SHARD_ENTRIES`](Self::SHARD_ENTRIES).
    pub shard_entries: usize,
}

impl CacheSpec {
    /// Usual number of entries per shard.
    pub const SHARD_ENTRIES: usize = 4096;

    /// Number of stored variants of a picture: 2 with its mirror image, otherwise 1.
    pub fn variants(&self) -> usize {
        1 + usize::from(self.flip)
    }

    /// Shape of what is stored per picture, [variants, 2C or C, h, w].
    pub fn stored_shape(&self) -> [usize; 4] {
        let [c, h, w] = self.shape;
        let factor = match self.items {
            ItemKind::Moments => 2,
            ItemKind::Latents => 1,
        };
        [self.variants(), factor * c, h, w]
    }

    /// Number of stored elements of one variant of a picture.
    pub fn variant_elements(&self) -> usize {
        self.stored_shape()[1..].iter().product()
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`], which names the first invalid one.
    pub fn validate(&self) -> Result<()> {
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (channels, size) = (self.images.channels, self.images.size);
        let checks = [
            (
                elements.is_some_and(|n| (1..=MAX_ELEMENTS).contains(&n)),
                "shape",
                format!("a shape [C, h, w] of 1 to {MAX_ELEMENTS} elements"),
                shape_text(&self.shape),
            ),
            (
                self.latent_scale.is_finite() && self.latent_scale > 0.0,
                "latent_scale",
                "a finite number above 0".to_owned(),
                self.latent_scale.to_string(),
            ),
            (
                matches!(self.dtype, DType::F32 | DType::BF16),
                "dtype",
                "f32 or bf16".to_owned(),
                self.dtype.to_string(),
            ),
            (
                (1..=MAX_SHARD_ENTRIES).contains(&self.shard_entries),
                "shard_entries",
                format!("1 to {MAX_SHARD_ENTRIES}"),
                self.shard_entries.to_string(),
            ),
            (matches!(channels, 1 | 3), "images.channels", "1 or 3".to_owned(), channels.to_string()),
            (size > 0, "images.size", "at least 1 pixel".to_owned(), size.to_string()),
        ];
        match checks.into_iter().find(|(valid, ..)| !valid) {
            Some((_, field, expected, got)) => Err(Error::config(field, expected, got)),
            None => Ok(()),
        }
    }

    /// Every property with its name and its value in words.
    fn all_properties(&self) -> Vec<(&'static str, String)> {
        let mut out = self.properties();
        let classes = &self.images.classes;
        out.push(("number of classes", classes.len().to_string()));
        out.extend(classes.iter().map(|name| ("class name", name.clone())));
        out
    }

    /// Every property but the classes, with its name and its value in words.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("codec", codec_text(&self.images.codec)),
            ("size", self.images.size.to_string()),
            ("channels", self.images.channels.to_string()),
            ("fit", self.fit.to_string()),
            ("mirror images", if self.flip { "stored" } else { "not stored" }.to_owned()),
            ("items", self.items.name().to_owned()),
            ("shape", shape_text(&self.shape)),
            ("latent scale", self.latent_scale.to_string()),
            ("dtype", self.dtype.to_string()),
            ("entries per shard", self.shard_entries.to_string()),
        ]
    }
}

/// Header of a cache, the contents of `cache.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheHeader {
    /// Version of the format.
    pub version: u32,
    /// Everything but the pictures.
    #[serde(flatten)]
    pub spec: CacheSpec,
    /// Number of pictures, broken ones included.
    pub entries: usize,
    /// SHA-256 of paths and labels, in hexadecimal.
    pub entries_sha256: String,
}

impl CacheHeader {
    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.entries.div_ceil(self.spec.shard_entries)
    }

    /// The first property in which `self` differs from `other`, with both values.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let properties = |header: &Self| {
            let mut out = header.spec.all_properties();
            out.push(("number of pictures", header.entries.to_string()));
            out.push(("paths and labels (SHA-256)", header.entries_sha256.clone()));
            out
        };
        let (ours, theirs) = (properties(self), properties(other));
        let differing = ours.into_iter().zip(theirs).find(|((_, a), (_, b))| a != b);
        differing.map(|((name, a), (_, b))| (name, a, b))
    }
}

/// Properties that a model requires of a cache; `None` accepts any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// The codec; files are compared by their contents, not by their names.
    pub codec: Option<&'a CodecRecord>,
    /// Width and height of the pictures in pixels.
    pub size: Option<usize>,
    /// Number of colour channels.
    pub channels: Option<usize>,
    /// Fit of the pictures to the size.
    pub fit: Option<Fit>,
    /// Shape [C, h, w] of a latent.
    pub shape: Option<[usize; 3]>,
}

impl<'a> From<&'a ImageSpec> for Expected<'a> {
    /// Codec, size and channels of the images that a model makes.
    fn from(images: &'a ImageSpec) -> Self {
        let (size, channels) = (Some(images.size), Some(images.channels));
        Self { codec: Some(&images.codec), size, channels, ..Self::default() }
    }
}

impl Expected<'_> {
    /// The first property in which `spec` differs: its name, the expected value, and that of `spec`.
    pub(super) fn difference(&self, spec: &CacheSpec) -> Option<(&'static str, String, String)> {
        let texts = [
            ("codec", self.codec.map(codec_text), codec_text(&spec.images.codec)),
            ("size", self.size.map(|n| n.to_string()), spec.images.size.to_string()),
            ("channels", self.channels.map(|n| n.to_string()), spec.images.channels.to_string()),
            ("fit", self.fit.map(|fit| fit.to_string()), spec.fit.to_string()),
            ("shape", self.shape.map(|shape| shape_text(&shape)), shape_text(&spec.shape)),
        ];
        texts.into_iter().find_map(|(name, expected, got)| {
            expected.filter(|expected| *expected != got).map(|expected| (name, expected, got))
        })
    }
}

/// A codec by what identifies it: two names of one file are the same codec.
fn codec_text(codec: &CodecRecord) -> String {
    match codec {
        CodecRecord::Patch(side) => format!("patch:{side}"),
        CodecRecord::File { sha256, .. } => format!("the file with SHA-256 {sha256}"),
    }
}

/// `16x8x8`
pub(super) fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
