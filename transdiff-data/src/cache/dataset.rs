//! Dataset of the latents in a cache.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use half::bf16;
use transdiff_core::data::Dataset;
use transdiff_core::rng::Philox;
use transdiff_core::{DType, Error, Result};

use super::directory::CacheDirectory;
use super::entries::{self, Paths};
use super::header::{CacheHeader, Expected, ItemKind};
use super::index::{Index, Skipped};
use super::shard::Shard;

/// Shards that are open at a time; processes may open at least 1,024 files on most systems.
const MAX_OPEN: usize = 512;
/// Range that log-variances are clamped to, as the published VAE does.
const LOG_VARIANCE: [f64; 2] = [-30.0, 20.0];

/// Latents of a cache, read by position: an item costs one read of its own bytes, whose checksum is verified every time.
/// In memory are 16 bytes per entry at most.
///
/// If mirror images are stored, a read first draws which of the two images it is; then, for moments, the posterior noise.
pub struct CachedDataset {
    cache: CacheDirectory,
    index: Index,
    open: RwLock<BTreeMap<usize, Arc<Shard>>>,
    flip: bool,
}

impl CachedDataset {
    /// Opens the cache in the directory `path`, which must have the properties `expected`.
    ///
    /// # Errors
    /// [`Error::Format`] if the directory holds no complete cache, or if it has another codec, size, crop or shape, which it
    /// names; [`Error::Tensor`] or [`Error::TensorNames`] if its index is inconsistent; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, expected: &Expected<'_>) -> Result<Self> {
        let path = path.as_ref();
        let cache = CacheDirectory::read(path)?
            .ok_or_else(|| Error::format(path, "no cache: cache.json is missing"))?;
        if let Some((name, expected, got)) = expected.difference(&cache.header.spec) {
            return Err(Error::format(path, format!("{name} of the cache: expected {expected}, got {got}")));
        }
        let index = Index::open(&cache)?;
        if let Some(shard) = (0..cache.header.shards()).find(|&number| !cache.shard_path(number).exists()) {
            return Err(Error::format(cache.shard_path(shard), "the shard is missing"));
        }
        let flip = cache.header.spec.flip;
        Ok(Self { cache, index, open: RwLock::default(), flip })
    }

    /// The same latents, with or without those of mirror images, which are drawn only if they are stored.
    #[must_use]
    pub fn with_flip(self, flip: bool) -> Self {
        Self { flip: flip && self.cache.header.spec.flip, ..self }
    }

    /// Header of the cache.
    pub fn header(&self) -> &CacheHeader {
        &self.cache.header
    }

    /// Path of the picture of entry `index`, relative to the folder of pictures.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the index is inconsistent; [`Error::Io`].
    pub fn path(&self, index: usize) -> Result<String> {
        self.index.list().path(index)
    }

    /// Pictures that were left out when the cache was made.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the index is inconsistent; [`Error::Io`].
    pub fn skipped(&self) -> Result<Vec<Skipped>> {
        self.index.skipped()
    }

    /// Reads the paths of all entries into memory.
    pub(crate) fn paths(&self) -> Result<Paths> {
        self.index.list().paths()
    }

    /// The open shard `number`.
    fn shard(&self, number: usize) -> Result<Arc<Shard>> {
        if let Some(shard) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(shard.clone());
        }
        let opened = Shard::open(&self.cache, number);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let shard = match opened {
            // The process may have too many open files.
            Err(Error::Io { .. }) if !open.is_empty() => {
                open.clear();
                Shard::open(&self.cache, number)?
            }
            opened => opened?,
        };
        if open.len() >= MAX_OPEN {
            open.pop_first();
        }
        let shard = Arc::new(shard);
        open.insert(number, shard.clone());
        Ok(shard)
    }

    /// Name of entry `index` in errors.
    fn name(&self, index: usize) -> String {
        self.path(index)
            .map_or_else(|_| format!("entry {index}"), |path| format!("entry {}", entries::shown(&path)))
    }
}

impl Dataset for CachedDataset {
    fn len(&self) -> usize {
        self.index.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        self.cache.header.spec.shape
    }

    fn label(&self, index: usize) -> usize {
        self.index.label(index)
    }

    fn read(&self, index: usize, stream: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        let spec = &self.cache.header.spec;
        let variant = if self.flip { stream.below(2) as usize } else { 0 };
        let location = self.index.location(index);
        let shard = self.shard(location.shard)?;
        let checksum = self.index.checksum(index, variant);
        let bytes = shard.read(location.row, variant, checksum, || self.name(index))?;
        let begin = out.len();
        let scale = (spec.items == ItemKind::Moments).then_some(spec.latent_scale);
        match spec.dtype {
            DType::BF16 => {
                append(bytes.as_chunks().0, |b| bf16::from_le_bytes(b).to_f32(), scale, stream, out)
            }
            _ => append(bytes.as_chunks().0, f32::from_le_bytes, scale, stream, out),
        }
        if out[begin..].iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        out.truncate(begin);
        Err(shard.invalid_value(location.row, &self.name(index)))
    }

    fn shard_ends(&self) -> Vec<usize> {
        self.index.shard_ends(self.cache.header.shards())
    }
}

/// Appends the latents in `stored`, or with a latent scale a draw from the moments in it.
fn append<const SIZE: usize>(
    stored: &[[u8; SIZE]],
    decode: impl Fn([u8; SIZE]) -> f32,
    latent_scale: Option<f64>,
    stream: &mut Philox,
    out: &mut Vec<f32>,
) {
    let Some(scale) = latent_scale else {
        out.extend(stored.iter().map(|&x| decode(x)));
        return;
    };
    let (means, log_variances) = stored.split_at(stored.len() / 2);
    out.extend(means.iter().zip(log_variances).map(|(&mean, &log_variance)| {
        let log_variance = f64::from(decode(log_variance)).clamp(LOG_VARIANCE[0], LOG_VARIANCE[1]);
        ((f64::from(decode(mean)) + (0.5 * log_variance).exp() * stream.normal()) * scale) as f32
    }));
}
