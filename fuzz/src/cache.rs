//! A cache of twelve pictures in three classes.

use std::path::Path;
use std::sync::LazyLock;

use tempfile::TempDir;
use transdiff_core::data::Dataset;
use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::{DType, Result};
use transdiff_data::cache::{
    CacheEntry, CacheSpec, CacheWriter, CachedDataset, Expected, ItemKind, Part, merge,
};
use transdiff_data::pictures::Fit;

use crate::bounded;

/// The cache, and the folder that holds it.
pub struct TinyCache {
    pub cache: CachedDataset,
    folder: TempDir,
}

/// The cache of this process.
pub static CACHE: LazyLock<TinyCache> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = write(folder.path()).expect("a cache");
    TinyCache { cache, folder }
});

fn write(path: &Path) -> Result<CachedDataset> {
    let classes = ["cat", "dog", "eel"].map(str::to_owned).to_vec();
    let entry = |i: usize| CacheEntry { path: format!("{}/{i:04}.png", classes[i / 4]), label: i as u32 / 4 };
    let entries = (0..12).map(entry).collect();
    let spec = CacheSpec {
        images: ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 2, classes },
        fit: Fit::Crop,
        flip: true,
        items: ItemKind::Moments,
        shape: [1, 1, 2],
        latent_scale: 1.0,
        dtype: DType::F32,
        shard_entries: 4,
    };
    let writer = CacheWriter::open(path, spec, entries, Part::WHOLE)?;
    for shard in writer.unfinished()? {
        let mut rows = writer.begin(shard)?;
        while rows.expected().is_some() {
            rows.push(&[0.5; 8])?;
        }
        rows.finish()?;
    }
    merge(path)?;
    CachedDataset::open(path, &Expected::default())
}

/// Reads everything in the cache with `index` as its index.
pub fn check_cache_index(index: &[u8]) {
    let path = CACHE.folder.path();
    std::fs::write(path.join("index.safetensors"), index).expect("an index");
    bounded(index.len(), || {
        if let Err(error) = read_everything(path) {
            assert_ne!(error.to_string(), "");
        }
    });
}

fn read_everything(path: &Path) -> Result<()> {
    let cache = CachedDataset::open(path, &Expected::default())?;
    let mut out = Vec::new();
    for index in 0..cache.len() {
        assert!(cache.label(index) < 3);
        cache.path(index)?;
        cache.read(index, &mut StreamKey::new(0, Purpose::Posterior, 0, 0).stream(), &mut out)?;
        assert_eq!(out.len(), 2 * (index + 1));
    }
    cache.skipped().map(drop)
}
