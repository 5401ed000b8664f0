//! Parts shared by the fuzz targets: the memory limit per input, and reading an input completely.

#[path = "../../tests/common/allocation.rs"]
mod allocation;
#[path = "../../tests/common/archive.rs"]
mod archive;
#[path = "../../tests/common/reading.rs"]
mod reading;

use transdiff_core::checkpoint::WeightFile;

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

/// Builds an archive with the pickle `pickle` and two storages of 64 bytes.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    archive::zip(&archive::checkpoint(pickle, &[&[0; 64], &[1; 64]]))
}
