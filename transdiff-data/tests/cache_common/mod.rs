//! Small caches.

#![allow(dead_code)] // not all is used by every test

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::rng::{Philox, Purpose, StreamKey};
use transdiff_core::{DType, Result};
use transdiff_data::cache::{CacheEntry, CacheSpec, CacheWriter, ItemKind, Part};
use transdiff_data::pictures::Fit;

/// Moments of two channels of 2 × 3 with mirror images, four entries per shard.
pub fn spec() -> CacheSpec {
    CacheSpec {
        images: ImageSpec {
            codec: CodecRecord::File { name: "vae.ckpt".to_owned(), sha256: "ab".repeat(32) },
            channels: 3,
            size: 64,
            classes: ["cat", "dog", "eel"].map(str::to_owned).to_vec(),
        },
        fit: Fit::Crop,
        flip: true,
        items: ItemKind::Moments,
        shape: [2, 2, 3],
        latent_scale: 0.5,
        dtype: DType::F32,
        shard_entries: 4,
    }
}

/// Latents of one element without mirror images.
pub fn latents(shard_entries: usize) -> CacheSpec {
    let mut spec = spec();
    spec.images.codec = CodecRecord::Patch(4);
    CacheSpec {
        flip: false,
        items: ItemKind::Latents,
        shape: [1, 1, 1],
        latent_scale: 1.0,
        shard_entries,
        ..spec
    }
}

/// `count` pictures in the classes of [`spec`].
pub fn entries(count: usize) -> Vec<CacheEntry> {
    let classes = ["cat", "dog", "eel"];
    let entry = |i: usize| CacheEntry {
        path: format!("{}/{i:04}.png", classes[i * 3 / count]),
        label: (i * 3 / count) as u32,
    };
    (0..count).map(entry).collect()
}

/// What is stored of the picture at `path`: numbers that depend on the path alone.
pub fn values(path: &str, count: usize) -> Vec<f32> {
    let seed = path.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    StreamKey::new(seed, Purpose::Data, 0, 0).normals(count)
}

/// Writes the unfinished shards of a part; pictures in `broken` are left out.
pub fn write_part(
    path: &Path,
    spec: &CacheSpec,
    count: usize,
    part: Part,
    broken: &[usize],
) -> Result<Vec<usize>> {
    let writer = CacheWriter::open(path, spec.clone(), entries(count), part)?;
    let unfinished = writer.unfinished()?;
    let broken: Vec<String> = broken.iter().map(|&i| entries(count)[i].path.clone()).collect();
    for &shard in &unfinished {
        let mut rows = writer.begin(shard)?;
        while let Some(entry) = rows.expected() {
            if broken.contains(&entry.path) {
                rows.skip("truncated")?;
            } else {
                rows.push(&values(&entry.path, spec.variants() * spec.variant_elements()))?;
            }
        }
        rows.finish()?;
    }
    Ok(unfinished)
}

/// A stream of random numbers.
pub fn stream(seed: u64) -> Philox {
    StreamKey::new(seed, Purpose::Posterior, 0, 0).stream()
}

/// Names and contents of the files in a folder, without the lock.
pub fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(path).unwrap().map(read).filter(|(name, _)| name != ".lock").collect()
}

/// The message of an error.
pub fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}
