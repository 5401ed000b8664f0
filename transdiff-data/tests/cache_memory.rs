//! Memory of a cache with a million entries.

#[path = "../../tests/common/allocation.rs"]
mod allocation;
mod cache_common;

use cache_common::{latents, stream};
use transdiff_core::data::Dataset;
use transdiff_data::cache::{CacheEntry, CacheSpec, CacheWriter, CachedDataset, Expected, Part, merge};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

const ENTRIES: usize = 1_000_000;

/// With mirror images, which add a checksum per entry.
#[test]
fn entries_take_at_most_32_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let spec = CacheSpec { flip: true, ..latents(CacheSpec::SHARD_ENTRIES * 16) };
    let entry = |i: usize| CacheEntry { path: format!("n{:08}/n{i:08}.JPEG", i % 3), label: (i % 3) as u32 };
    let entries = (0..ENTRIES).map(entry).collect();
    let writer = CacheWriter::open(folder.path(), spec, entries, Part::WHOLE).unwrap();
    for shard in writer.unfinished().unwrap() {
        let mut rows = writer.begin(shard).unwrap();
        while rows.expected().is_some() {
            rows.push(&[0.5, 1.5]).unwrap();
        }
        rows.finish().unwrap();
    }
    drop(writer);
    assert_eq!(merge(folder.path()).unwrap().entries, ENTRIES);

    let before = allocation::held();
    let open = || CachedDataset::open(folder.path(), &Expected::default()).unwrap();
    let (cache, peak) = allocation::peak_of(open);
    let held = allocation::held() - before;
    assert!(held <= 17 * ENTRIES, "{held} bytes held");
    assert!(peak <= 32 * ENTRIES, "{peak} bytes at the peak");
    // One item reads nothing but its own bytes, and the header of its shard.
    let mut out = Vec::with_capacity(1);
    let (read, peak) = allocation::peak_of(|| cache.read(ENTRIES - 1, &mut stream(0), &mut out));
    read.unwrap();
    assert!(peak < 64 << 10, "{peak} bytes for one item");
    assert_eq!(cache.path(ENTRIES - 1).unwrap(), "n00000000/n00999999.JPEG");
}
