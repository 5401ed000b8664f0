//! Files that nobody should have written: each gives an error that names it, or nothing happens; no panic, and no more
//! memory than the file warrants.
//!
//! The small ones are also in `fuzz/corpus`, where the fuzzers start from them.
//! `TRANSDIFF_WRITE_CORPUS=1 cargo test --test hostile_files` writes them there.

mod config;
mod pth;
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

/// One test runs at a time: what another allocates would be counted.
static MEASURING: Mutex<()> = Mutex::new(());

/// A file of this size or less is in the fuzzers' corpus.
const SMALL: usize = 1 << 14;

/// A file, and what reading it must give.
pub struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// A part of the error's text; none if the file can be read.
    error: Option<&'static str>,
}

impl Case {
    fn refused(name: &'static str, bytes: Vec<u8>, error: &'static str) -> Self {
        Self { name, bytes, error: Some(error) }
    }

    fn sound(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes, error: None }
    }
}

/// Checks every case, as the file that `file` makes of its bytes.
fn check(kind: &str, cases: fn() -> Vec<Case>, file: impl Fn(&[u8]) -> Vec<u8>) {
    let _one = MEASURING.lock();
    let (folder, cases) = (tempfile::tempdir().unwrap(), cases());
    let mut worst = 0;
    for case in &cases {
        let path = folder.path().join(case.name).with_extension(kind);
        let bytes = file(&case.bytes);
        std::fs::write(&path, &bytes).unwrap();
        for way in ["opened", "mapped", "held"] {
            let what = format!("{kind}/{} {way}", case.name);
            let held = bytes.clone();
            let (result, peak) = peak_of(|| read_everything(open(way, &path, held)));
            worst = worst.max(peak.saturating_sub(2 * bytes.len()));
            assert!(peak <= allowed(bytes.len()), "{what}: {peak} bytes for a file of {}", bytes.len());
            judge(&what, &path, case.error, result);
        }
    }
    println!("{kind}: {} files, at most {worst} bytes beyond twice a file", cases.len());
}

fn open(way: &str, path: &Path, held: Vec<u8>) -> Result<WeightFile> {
    match way {
        "opened" => WeightFile::open(path),
        // SAFETY: the file is this test's own.
        "mapped" => unsafe { WeightFile::open_mapped(path) },
        _ => WeightFile::from_bytes(path, held),
    }
}

fn judge(what: &str, path: &Path, expected: Option<&str>, result: Result<()>) {
    match (expected, result) {
        (None, Ok(())) => {}
        (Some(part), Err(error)) => {
            let text = error.to_string();
            assert!(text.contains(part), "{what}: {part} is not in: {text}");
            // Sizes that do not fit together are named by their field.
            let names_file = text.contains(path.file_name().unwrap().to_str().unwrap());
            assert!(names_file || matches!(error, Error::Config { .. }), "{what}: no file in: {text}");
        }
        (expected, result) => panic!("{what}: expected {expected:?}, got {result:?}"),
    }
}

#[test]
fn safetensors_files() {
    check("safetensors", safetensors::cases, <[u8]>::to_vec);
}

#[test]
fn pytorch_files() {
    check("pth", pth::cases, <[u8]>::to_vec);
}

/// The length of a file may be that of a hole, which warrants nothing.
#[test]
fn a_hole_warrants_no_memory() {
    const HOLE: usize = 2 << 30;
    let _one = MEASURING.lock();
    let mut bytes = pth::model(pth::laughs());
    let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let place = bytes.len() - 6;
    bytes[place..place + 4].copy_from_slice(&((directory + HOLE) as u32).to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.pth");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&bytes[..directory]).unwrap();
    file.seek(SeekFrom::Current(HOLE as i64)).unwrap();
    file.write_all(&bytes[directory..]).unwrap();
    let (result, peak) = peak_of(|| WeightFile::open(&path).map(drop));
    judge("hole", &path, Some("exceed the allocation limit"), result);
    assert!(peak < 128 << 20, "{peak} bytes");
}

#[test]
fn configurations() {
    check("config", config::cases, config::file);
}

#[test]
fn the_corpus_is_what_is_tested() {
    let _one = MEASURING.lock();
    let write = std::env::var_os("TRANSDIFF_WRITE_CORPUS").is_some();
    let sets = [("safetensors", safetensors::cases()), ("pth", pth::cases()), ("config", config::cases())];
    for (kind, cases) in sets {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(kind);
        for case in cases.iter().filter(|case| case.bytes.len() <= SMALL) {
            let path = folder.join(case.name);
            if write {
                std::fs::write(&path, &case.bytes).unwrap();
            }
            let held = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(held == case.bytes, "{} is not what the test makes", path.display());
        }
    }
}
