//! Interrupted writing: every state that a kill can leave opens or is resumed, and never is a wrong cache.

mod cache_common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use cache_common::{contents, entries, message, spec, stream, write_part};
use transdiff_core::data::Dataset;
use transdiff_data::cache::{CacheWriter, CachedDataset, Expected, Part, merge};

const COUNT: usize = 10;
const BROKEN: [usize; 2] = [2, 7];
/// The files in the order in which they are written.
const FILES: [&str; 6] = [
    "entries.safetensors",
    "cache.json",
    "shard-00000.safetensors",
    "shard-00001.safetensors",
    "shard-00002.safetensors",
    "index.safetensors",
];

fn write(path: &Path) -> transdiff_core::Result<Vec<usize>> {
    write_part(path, &spec(), COUNT, Part::WHOLE, &BROKEN)
}

/// Files of an uninterrupted run.
fn complete() -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).unwrap();
    merge(folder.path()).unwrap();
    let files = contents(folder.path());
    assert!(files.keys().eq(&{
        let mut names = FILES.map(str::to_owned);
        names.sort();
        names
    }));
    files
}

/// Resumes and merges in `path`, and checks that the files are those of an uninterrupted run.
fn check_resume(path: &Path, complete: &BTreeMap<String, Vec<u8>>, redone: &[usize]) {
    assert_eq!(write(path).unwrap(), redone);
    merge(path).unwrap();
    assert!(contents(path) == *complete, "other files than those of an uninterrupted run");
}

/// Every file is written as: create a temporary file, write it, rename it. A kill leaves the files before it and perhaps
/// some bytes of the temporary one.
#[test]
fn every_prefix_of_the_file_operations_is_resumed() {
    let complete = complete();
    for done in 0..FILES.len() {
        let next = &complete[FILES[done]];
        for written in [None, Some(0), Some(1), Some(next.len() / 2), Some(next.len())] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            for name in &FILES[..done] {
                fs::write(path.join(name), &complete[*name]).unwrap();
            }
            if let Some(written) = written {
                fs::write(path.join(".writing-x7Fq2A"), &next[..written]).unwrap();
            }
            let error = message(CachedDataset::open(path, &Expected::default()));
            assert!(error.contains("cache.json is missing") || error.contains("has no index"), "{error}");
            if done < 5 {
                let error = message(merge(path));
                assert!(error.contains("cache.json is missing") || error.contains("not finished"), "{error}");
            }
            let redone: Vec<usize> = (done.clamp(2, 5) - 2..3).collect();
            check_resume(path, &complete, &redone);
        }
    }
}

/// A crash of the system may leave files shorter than they were written.
#[test]
fn shortened_shards_are_redone_and_the_index_with_them() {
    let complete = complete();
    for name in &FILES[2..5] {
        for kept in [0, 1, 9, complete[*name].len() / 2, complete[*name].len() - 1] {
            let folder = tempfile::tempdir().unwrap();
            for (name, bytes) in &complete {
                fs::write(folder.path().join(name), bytes).unwrap();
            }
            fs::write(folder.path().join(name), &complete[*name][..kept]).unwrap();
            assert!(message(merge(folder.path())).contains("1 of 3 shards are not finished"));
            let number = name["shard-".len()..][..5].parse().unwrap();
            check_resume(folder.path(), &complete, &[number]);
        }
    }
}

#[test]
fn shortened_index_is_refused_and_merged_again() {
    let complete = complete();
    for kept in [0, 1, 9, complete["index.safetensors"].len() - 1] {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &complete {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        fs::write(folder.path().join("index.safetensors"), &complete["index.safetensors"][..kept]).unwrap();
        assert!(
            message(CachedDataset::open(folder.path(), &Expected::default())).contains("index.safetensors")
        );
        check_resume(folder.path(), &complete, &[]);
    }
}

/// The index holds the checksums of the shards, and must not outlive one of them.
#[test]
fn index_is_removed_before_a_shard_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).unwrap();
    merge(folder.path()).unwrap();
    let writer = CacheWriter::open(folder.path(), spec(), entries(COUNT), Part::WHOLE).unwrap();
    let mut rows = writer.begin(1).unwrap();
    for entry in rows.entries() {
        rows.skip(&format!("{} is broken", entry.path)).unwrap();
    }
    rows.finish().unwrap();
    assert!(message(CachedDataset::open(folder.path(), &Expected::default())).contains("has no index"));
    assert_eq!(merge(folder.path()).unwrap().skipped.len(), 5);
    let cache = CachedDataset::open(folder.path(), &Expected::default()).unwrap();
    (0..cache.len()).for_each(|i| cache.read(i, &mut stream(0), &mut Vec::new()).unwrap());
}

#[test]
fn failed_write_leaves_a_resumable_directory() {
    let (complete, folder) = (complete(), tempfile::tempdir().unwrap());
    // A directory in place of a file makes its replacement fail, as a full disk does.
    for name in FILES {
        let blocked = folder.path().join(name);
        fs::create_dir(&blocked).unwrap();
        let outcome = write(folder.path()).and_then(|_| merge(folder.path()));
        assert!(message(outcome).contains(name), "{name}");
        assert!(names(folder.path()).iter().all(|name| !name.starts_with(".writing")));
        fs::remove_dir(&blocked).unwrap();
    }
    // The index could not be removed for the last shard.
    check_resume(folder.path(), &complete, &[2]);
}

fn names(path: &Path) -> Vec<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn temporary_files_of_running_parts_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let part =
        |text: &str| CacheWriter::open(folder.path(), spec(), entries(COUNT), text.parse().unwrap()).unwrap();
    let running = part("0/2");
    let temporary = folder.path().join(".writing-part-0");
    File::create(&temporary).unwrap();
    drop(part("1/2"));
    assert!(temporary.exists(), "part 0 may be writing it");
    drop(running);
    drop(part("1/2"));
    assert!(!temporary.exists(), "no other process holds the lock");
}
