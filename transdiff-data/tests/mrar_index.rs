//! Indices of MRAR samples, resolved against a cache.

mod cache_common;

use std::fs;
use std::path::Path;

use cache_common::{latents, message};
use transdiff_core::Result;
use transdiff_data::cache::{CacheEntry, CacheWriter, CachedDataset, Expected, Part, merge};
use transdiff_data::mrar_index::{MrarGroup, MrarIndex};

/// A cache of the pictures at `paths`, in the classes that their first folders are.
fn cache(folder: &Path, paths: &[&str]) -> CachedDataset {
    let mut spec = latents(4);
    spec.images.classes = ["cat", "dog", "eel"].map(str::to_owned).to_vec();
    let label = |path: &str| spec.images.classes.iter().position(|class| path.starts_with(class.as_str()));
    let entry = |path: &&str| CacheEntry { path: (*path).to_owned(), label: label(path).unwrap() as u32 };
    let entries = paths.iter().map(entry).collect();
    let writer = CacheWriter::open(folder, spec.clone(), entries, Part::WHOLE).unwrap();
    for shard in writer.unfinished().unwrap() {
        let mut rows = writer.begin(shard).unwrap();
        while rows.expected().is_some() {
            rows.push(&[0.0]).unwrap();
        }
        rows.finish().unwrap();
    }
    merge(folder).unwrap();
    CachedDataset::open(folder, &Expected::default()).unwrap()
}

const PATHS: [&str; 10] = [
    "cat/0.JPEG",
    "cat/1.JPEG",
    "cat/2.jpg",
    "cat/3.v2.png",
    "dog/0.JPEG",
    "dog/1",
    "dog/sub/2.png",
    "dog/3.webp",
    "eel/0.png",
    "eel/1.png",
];

fn read(text: &str, paths: &[&str]) -> Result<MrarIndex> {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder.path().join("cache"), paths);
    fs::write(folder.path().join("index.jsonl"), text).unwrap();
    MrarIndex::read(folder.path().join("index.jsonl"), &cache)
}

#[test]
fn files_are_found_by_name_class_or_longer_path() {
    let text = concat!(
        "{\"cate\": \"cat\", \"files\": [\"3.v2.png\", \"2.JPEG\", \"1.JPEG.npz\", \"0.npz\"]}\r\n\n",
        "{\"files\": [\"dog/0.JPEG\", \"train/dog/1.JPEG\", \"/data/train/dog/sub/2.npz\", \"dog\\\\3\"], \"cate\": 1}",
    );
    let index = read(text, &PATHS).unwrap();
    let expected =
        [MrarGroup { entries: [3, 2, 1, 0], label: 0 }, MrarGroup { entries: [4, 5, 6, 7], label: 1 }];
    assert_eq!(index.groups(), expected);
    assert_eq!((index.unresolved(), index.repeating()), (0, 0));
    assert_eq!(index.small_classes(), [(2, 2)]);
    assert!(size_of::<MrarGroup>() <= 32);
}

#[test]
fn unresolved_and_repeating_lines_are_counted() {
    let text = r#"{"cate": "cat", "files": ["0", "1", "9", "8"]}
        {"cate": "cat", "files": ["0", "1", "2", "2.jpg"]}
        {"cate": "fox", "files": ["0", "1", "2", "3"]}
        {"cate": "cat", "files": ["0", "1", "2", "3.v2"]}"#;
    let index = read(text, &PATHS).unwrap();
    assert_eq!((index.groups().len(), index.unresolved(), index.repeating()), (1, 2, 1));
    assert_eq!(index.unresolved_names(), ["9", "8", "0", "1", "2", "3"]);
}

/// Names that differ in their endings alone are told apart where the index gives the endings.
#[test]
fn endings_decide_between_equal_names() {
    let paths = ["cat/a.png", "cat/a.jpg", "cat/b.png", "cat/b.jpg"];
    let text = r#"{"cate": "cat", "files": ["a.jpg", "a.png", "b.jpg", "b"]}"#;
    assert_eq!(read(text, &paths).unwrap().groups()[0].entries, [1, 0, 3, 2]);
}

/// The numbers of the published classes are not those of a subset.
#[test]
fn label_is_that_of_the_files() {
    let text = r#"{"cate": 207, "files": ["cat/0", "cat/1", "cat/2", "cat/3.v2"]}"#;
    assert_eq!(read(text, &PATHS).unwrap().groups()[0].label, 0);
}

#[test]
fn invalid_lines_are_named_by_number() {
    let long = format!("{{\"cate\": \"{}\"", "a".repeat(70_000));
    let cases = [
        (r#"{"cate": "cat", "files": ["0", "1", "2"]}"#, "an array of length 4"),
        (r#"{"cate": "cat", "files": ["0", "1", "2", "3", "4"]}"#, "line 2: expected {\"cate\""),
        (r#"{"cate": 1.5, "files": ["0", "1", "2", "3"]}"#, "line 2: expected {\"cate\""),
        (r#"{"files": ["0", "1", "2", "3"]}"#, "missing field `cate`"),
        ("cat 0 1 2 3", "line 2: expected {\"cate\""),
        (r#"{"cate": "cat", "files": ["0", "1", "2", "dog/3"]}"#, "line 2: files of the classes cat and dog"),
        (
            r#"{"cate": "cat", "files": ["dog/0", "dog/1", "dog/sub/2", "dog/3"]}"#,
            "class cat, but files of class dog",
        ),
        (&long, "line 2: longer than 65536 bytes"),
    ];
    let valid = r#"{"cate": "cat", "files": ["0", "1", "2", "3.v2"]}"#;
    for (line, expected) in cases {
        let error = message(read(&format!("{valid}\n{line}\n"), &PATHS));
        assert!(error.contains(expected) && error.contains("index.jsonl"), "{error}");
    }
}
