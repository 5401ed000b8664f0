//! Reading of a warm cache in shuffled order: latents per second from moments of 16x16x16 in f32, with two threads.
//!
//! `cargo bench -p transdiff-data --bench cache [-- ENTRIES SECONDS]`; the cache of 2,048 entries takes 128 MiB of the
//! folder for temporary files.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use transdiff_core::DType;
use transdiff_core::data::{Dataset, Shuffle, ShuffledOrder};
use transdiff_core::models::{CodecRecord, ImageSpec};
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_data::cache::{
    CacheEntry, CacheSpec, CacheWriter, CachedDataset, Expected, ItemKind, Part, merge,
};
use transdiff_data::pictures::Fit;

const THREADS: usize = 2;
/// Rate that training at full speed needs.
const REQUIRED: f64 = 8000.0;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let entries = numbers.first().copied().unwrap_or(2048).max(1);
    let seconds = numbers.get(1).copied().unwrap_or(3);
    let folder = tempfile::tempdir()?;
    write(folder.path(), entries)?;
    let cache = CachedDataset::open(folder.path(), &Expected::default())?;
    let orders: Vec<_> = (0..THREADS)
        .map(|seed| ShuffledOrder::new(&cache, 1, None, Shuffle::Items, seed as u64))
        .collect::<Result<_, _>>()?;
    // The first pass brings the shards into the page cache.
    (0..entries).try_for_each(|index| read(&cache, index, &mut Vec::new()))?;
    let (begin, total) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for order in orders {
            let (cache, total) = (&cache, &total);
            scope.spawn(move || {
                let mut out = Vec::new();
                for n in 0.. {
                    if begin.elapsed() >= Duration::from_secs(seconds as u64) {
                        total.fetch_add(n as usize, Ordering::Relaxed);
                        return;
                    }
                    out.clear();
                    let index = order.sample(n, cache)[0];
                    read(cache, index, &mut out).expect("the cache is readable");
                }
            });
        }
    });
    let rate = total.into_inner() as f64 / begin.elapsed().as_secs_f64();
    println!("{rate:.0} latents per second with {THREADS} threads ({REQUIRED} required)");
    Ok(())
}

fn read(cache: &CachedDataset, index: usize, out: &mut Vec<f32>) -> transdiff_core::Result<()> {
    cache.read(index, &mut StreamKey::new(1, Purpose::Posterior, index as u32, 0).stream(), out)
}

fn write(path: &std::path::Path, count: usize) -> transdiff_core::Result<()> {
    let spec = CacheSpec {
        images: ImageSpec { codec: CodecRecord::Patch(16), channels: 3, size: 256, classes: Vec::new() },
        fit: Fit::Crop,
        flip: true,
        items: ItemKind::Moments,
        shape: [16, 16, 16],
        latent_scale: 0.2325,
        dtype: DType::F32,
        shard_entries: 512,
    };
    let entries = (0..count).map(|i| CacheEntry { path: format!("{i}.png"), label: 0 }).collect();
    let values = StreamKey::new(0, Purpose::Data, 0, 0).normals(2 * 32 * 16 * 16);
    let writer = CacheWriter::open(path, spec, entries, Part::WHOLE)?;
    for shard in writer.unfinished()? {
        let mut rows = writer.begin(shard)?;
        while rows.expected().is_some() {
            rows.push(&values)?;
        }
        rows.finish()?;
    }
    merge(path).map(drop)
}
