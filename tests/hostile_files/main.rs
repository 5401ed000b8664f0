//! Untrusted files. Reading a malformed or malicious file must give an error that names it, without a panic and within
//! the allocation limit for a file of its size.
//!
//! The small cases are also the seed corpus of the fuzzers, in `fuzz/corpus`.
//! `TRANSDIFF_WRITE_CORPUS=1 cargo test --test hostile_files` writes it.

mod config;
mod pth;
mod pth_contents;
mod safetensors;

#[path = "../common/allocation.rs"]
mod allocation;
#[path = "../common/archive.rs"]
mod archive;
#[path = "../common/pickle.rs"]
mod pickle;
#[path = "../common/reading.rs"]
mod reading;

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use allocation::peak_of;
use reading::{allowed, read_everything};
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::{Error, Result};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Serialises the tests, because allocations of a concurrent test would be counted.
static MEASURING: Mutex<()> = Mutex::new(());

/// Largest size in bytes of a file in the fuzzers' corpus.
const MAX_CORPUS_FILE: usize = 1 << 14;

/// A file, and the expected result of reading it.
pub struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// A part of the error message; `None` if the file can be read.
    error: Option<&'static str>,
}

impl Case {
    fn rejected(name: &'static str, bytes: Vec<u8>, error: &'static str) -> Self {
        Self { name, bytes, error: Some(error) }
    }

    fn accepted(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes, error: None }
    }
}

/// Checks every case, after `to_file` has turned its bytes into a file.
fn check(kind: &str, cases: fn() -> Vec<Case>, to_file: impl Fn(&[u8]) -> Vec<u8>) {
    let _guard = MEASURING.lock();
    let (folder, cases) = (tempfile::tempdir().unwrap(), cases());
    let mut worst = 0;
    for case in &cases {
        let path = folder.path().join(case.name).with_extension(kind);
        let bytes = to_file(&case.bytes);
        std::fs::write(&path, &bytes).unwrap();
        for access in [Access::Positioned, Access::Mapped, Access::Memory] {
            let label = format!("{kind}/{} {access:?}", case.name);
            let copy = bytes.clone();
            let (result, peak) = peak_of(|| read_everything(open(access, &path, copy)));
            worst = worst.max(peak.saturating_sub(2 * bytes.len()));
            assert!(peak <= allowed(bytes.len()), "{label}: {peak} bytes for a file of {}", bytes.len());
            check_result(&label, &path, case.error, result);
        }
    }
    println!("{kind}: {} files, peak of {worst} bytes beyond twice the file size", cases.len());
}

/// Way of opening a file.
#[derive(Clone, Copy, Debug)]
enum Access {
    Positioned,
    Mapped,
    Memory,
}

fn open(access: Access, path: &Path, bytes: Vec<u8>) -> Result<WeightFile> {
    match access {
        Access::Positioned => WeightFile::open(path),
        // SAFETY: no other process knows the temporary file.
        Access::Mapped => unsafe { WeightFile::open_mapped(path) },
        Access::Memory => WeightFile::from_bytes(path, bytes),
    }
}

fn check_result(label: &str, path: &Path, expected: Option<&str>, result: Result<()>) {
    match (expected, result) {
        (None, Ok(())) => {}
        (Some(part), Err(error)) => {
            let text = error.to_string();
            assert!(text.contains(part), "{label}: expected {part} in: {text}");
            // Errors about sizes that do not fit together name the field instead.
            let names_file = text.contains(path.file_name().unwrap().to_str().unwrap());
            assert!(
                names_file || matches!(error, Error::Config { .. }),
                "{label}: expected the file name in: {text}"
            );
        }
        (expected, result) => panic!("{label}: expected {expected:?}, got {result:?}"),
    }
}

#[test]
fn untrusted_safetensors_files_stay_within_the_allocation_limit() {
    check("safetensors", safetensors::cases, <[u8]>::to_vec);
}

#[test]
fn untrusted_pytorch_files_stay_within_the_allocation_limit() {
    check("pth", pth::cases, <[u8]>::to_vec);
}

/// A sparse file may have any length, which must not raise its allocation limit.
#[test]
fn sparse_file_does_not_raise_the_allocation_limit() {
    const HOLE_BYTES: usize = 2 << 30;
    let _guard = MEASURING.lock();
    let mut bytes = pth::model(pth::doubled_lists());
    let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let field = bytes.len() - 6;
    bytes[field..field + 4].copy_from_slice(&((directory + HOLE_BYTES) as u32).to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.pth");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&bytes[..directory]).unwrap();
    file.seek(SeekFrom::Current(HOLE_BYTES as i64)).unwrap();
    file.write_all(&bytes[directory..]).unwrap();
    let (result, peak) = peak_of(|| WeightFile::open(&path).map(drop));
    check_result("hole", &path, None, result);
    assert!(peak < 128 << 20, "{peak} bytes");
}

#[test]
fn untrusted_configurations_stay_within_the_allocation_limit() {
    check("config", config::cases, config::file);
}

#[test]
fn corpus_equals_the_tested_files() {
    let _guard = MEASURING.lock();
    let write = std::env::var_os("TRANSDIFF_WRITE_CORPUS").is_some();
    let sets = [("safetensors", safetensors::cases()), ("pth", pth::cases()), ("config", config::cases())];
    for (kind, cases) in sets {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(kind);
        for case in cases.iter().filter(|case| case.bytes.len() <= MAX_CORPUS_FILE) {
            let path = folder.join(case.name);
            if write {
                std::fs::write(&path, &case.bytes).unwrap();
            }
            let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(stored == case.bytes, "{} differs from the tested file", path.display());
        }
    }
}
