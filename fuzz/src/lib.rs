//! Parts shared by the fuzz targets: the memory limit per input, and reading an input completely.

#[path = "../../tests/common/allocation.rs"]
mod allocation;
#[path = "../../tests/common/archive.rs"]
mod archive;
mod cache;
#[path = "../../tests/common/reading.rs"]
mod reading;

use std::sync::LazyLock;

use serde_json::json;
use tempfile::TempDir;
use transdiff_core::checkpoint::WeightFile;

pub use cache::{CACHE, check_cache_index};
pub use reading::read_everything;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Runs `f`, and checks that its peak memory is within the limit for an input of `len` bytes.
pub fn bounded<T>(len: usize, f: impl FnOnce() -> T) -> T {
    let (out, peak) = allocation::peak_of(f);
    assert!(peak <= reading::allowed(len), "{peak} bytes allocated for an input of {len}");
    out
}

/// Reads a file completely; an error must have a message.
pub fn check_file(bytes: &[u8]) {
    let (len, bytes) = (bytes.len(), bytes.to_vec());
    bounded(len, || {
        if let Err(error) = read_everything(WeightFile::from_bytes("input", bytes)) {
            assert_ne!(error.to_string(), "");
        }
    });
}

/// Reads the model of which `index` is the index, in a folder with the shards `a.safetensors` and `b.safetensors`.
pub fn check_index(index: &[u8]) {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, tensor) in [("a.safetensors", "a"), ("b.safetensors", "b.weight")] {
            let header = json!({tensor: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).to_string();
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
            std::fs::write(folder.path().join(name), bytes).expect("a shard");
        }
        folder
    });
    let path = FOLDER.path().join("index.json");
    std::fs::write(&path, index).expect("an index");
    bounded(index.len(), || {
        if let Err(error) = read_everything(WeightFile::open(&path)) {
            assert_ne!(error.to_string(), "");
        }
    });
}

/// Builds an archive with the pickle `pickle` and two storages of 64 bytes.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    archive::zip(&archive::checkpoint(pickle, &[&[0; 64], &[1; 64]]))
}
