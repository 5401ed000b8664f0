//! Caches of latents: writing in parts, merging, reading.

mod cache_common;

use std::fs;

use cache_common::{contents, entries, latents, message, spec, stream, values, write_part};
use transdiff_core::DType;
use transdiff_core::data::Dataset;
use transdiff_core::models::CodecRecord;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_data::cache::{
    CacheHeader, CacheSpec, CacheWriter, CachedDataset, Expected, Part, Skipped, merge,
};
use transdiff_data::pictures::Fit;

fn open(path: &std::path::Path) -> transdiff_core::Result<CachedDataset> {
    CachedDataset::open(path, &Expected::default())
}

#[test]
fn latents_are_read_back_with_labels_and_paths() {
    let folder = tempfile::tempdir().unwrap();
    let spec = CacheSpec { shape: [2, 1, 3], ..latents(4) };
    assert_eq!(write_part(folder.path(), &spec, 10, Part::WHOLE, &[]).unwrap(), [0, 1, 2]);
    let summary = merge(folder.path()).unwrap();
    assert_eq!((summary.entries, summary.shards, summary.skipped.len()), (10, 3, 0));
    let cache = open(folder.path()).unwrap();
    assert_eq!((cache.len(), cache.item_shape()), (10, [2, 1, 3]));
    for (index, entry) in entries(10).iter().enumerate() {
        assert_eq!(cache.path(index).unwrap(), entry.path);
        assert_eq!(cache.label(index), entry.label as usize);
        let mut out = vec![1.0];
        cache.read(index, &mut stream(0), &mut out).unwrap();
        assert_eq!((out[0], &out[1..]), (1.0, &*values(&entry.path, 6)));
    }
}

#[test]
fn moments_are_sampled_after_the_flip_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), &spec(), 10, Part::WHOLE, &[]).unwrap();
    merge(folder.path()).unwrap();
    let cache = open(folder.path()).unwrap();
    let mut variants = [false; 2];
    for seed in 0..8 {
        let (mut stream, mut out) = (stream(seed), Vec::new());
        cache.read(5, &mut stream.clone(), &mut out).unwrap();
        let flipped = stream.below(2) as usize;
        variants[flipped] = true;
        let stored = values(&entries(10)[5].path, 48);
        let (mean, log_variance) = stored[24 * flipped..][..24].split_at(12);
        for i in 0..12 {
            let std = (0.5 * f64::from(log_variance[i])).exp();
            assert_eq!(out[i], ((f64::from(mean[i]) + std * stream.normal()) * 0.5) as f32);
        }
    }
    assert_eq!(variants, [true, true]);
}

/// The published VAE clamps log-variances to [-30, 20].
#[test]
fn log_variances_are_clamped() {
    let folder = tempfile::tempdir().unwrap();
    let spec = CacheSpec { flip: false, shape: [1, 1, 2], latent_scale: 1.0, ..spec() };
    let writer = CacheWriter::open(folder.path(), spec, entries(1), Part::WHOLE).unwrap();
    let mut rows = writer.begin(0).unwrap();
    rows.push(&[3.0, 0.0, -1e30, 1e30]).unwrap();
    rows.finish().unwrap();
    merge(folder.path()).unwrap();
    let mut out = Vec::new();
    open(folder.path()).unwrap().read(0, &mut stream(1), &mut out).unwrap();
    assert!((out[0] - 3.0).abs() < 1e-5 && out[1].abs() < 10f32.exp() * 6.0 && out[1] != 0.0, "{out:?}");
}

#[test]
fn bf16_halves_the_shards_and_rounds_to_nearest() {
    let (wide, narrow) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = CacheSpec { shape: [16, 8, 8], ..latents(4) };
    for (folder, dtype) in [(&wide, DType::F32), (&narrow, DType::BF16)] {
        write_part(folder.path(), &CacheSpec { dtype, ..spec.clone() }, 4, Part::WHOLE, &[]).unwrap();
        merge(folder.path()).unwrap();
    }
    let len = |folder: &tempfile::TempDir| contents(folder.path())["shard-00000.safetensors"].len();
    assert_eq!(len(&wide) - len(&narrow), 4 * 1024 * 2);
    let mut out = Vec::new();
    open(narrow.path()).unwrap().read(2, &mut stream(0), &mut out).unwrap();
    let expected = values(&entries(4)[2].path, 1024);
    let rounded = |x: &f32| half::bf16::from_f32(*x).to_f32();
    assert_eq!(out, expected.iter().map(rounded).collect::<Vec<_>>());
}

#[test]
fn parts_give_the_files_of_a_single_run() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_part(whole.path(), &spec(), 22, Part::WHOLE, &[3, 9]).unwrap();
    merge(whole.path()).unwrap();
    for (part, shards) in [("2/4", vec![2]), ("0/4", vec![0, 4]), ("3/4", vec![3])] {
        assert_eq!(write_part(parts.path(), &spec(), 22, part.parse().unwrap(), &[3, 9]).unwrap(), shards);
    }
    let missing = message(merge(parts.path()));
    assert!(missing.contains("2 of 6 shards are not finished: 1, 5 ("), "{missing}");
    assert!(message(open(parts.path())).contains("has no index"), "not merged");
    write_part(parts.path(), &spec(), 22, "1/4".parse().unwrap(), &[3, 9]).unwrap();
    let summary = merge(parts.path()).unwrap();
    assert_eq!(merge(parts.path()).unwrap(), summary);
    assert!(contents(whole.path()) == contents(parts.path()));
}

#[test]
fn skipped_pictures_are_recorded_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    // A whole shard is broken.
    write_part(folder.path(), &spec(), 12, Part::WHOLE, &[1, 4, 5, 6, 7]).unwrap();
    let summary = merge(folder.path()).unwrap();
    let all = entries(12);
    let skipped = |i: usize| Skipped { path: all[i].path.clone(), reason: "truncated".to_owned() };
    assert_eq!(summary.skipped, [1, 4, 5, 6, 7].map(skipped));
    let cache = open(folder.path()).unwrap();
    assert_eq!(cache.skipped().unwrap(), summary.skipped);
    let kept: Vec<String> = (0..cache.len()).map(|i| cache.path(i).unwrap()).collect();
    assert_eq!(kept, [0, 2, 3, 8, 9, 10, 11].map(|i| all[i].path.clone()));
    (0..cache.len()).for_each(|i| cache.read(i, &mut stream(0), &mut Vec::new()).unwrap());
}

#[test]
fn resume_with_another_header_names_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    assert!(CacheHeader::read(folder.path()).unwrap().is_none());
    write_part(folder.path(), &spec(), 12, Part::WHOLE, &[]).unwrap();
    assert_eq!(CacheHeader::read(folder.path()).unwrap().unwrap().spec, spec());
    let before = contents(folder.path());
    let mut other_codec = spec();
    other_codec.images.codec = CodecRecord::Patch(8);
    let mut other_size = spec();
    other_size.images.size = 32;
    let mut other_classes = spec();
    other_classes.images.classes[1] = "bee".to_owned();
    let cases = [
        (other_codec, 12, format!("codec is the file with SHA-256 {}, expected patch:8", "ab".repeat(32))),
        (other_size, 12, "size is 64, expected 32".to_owned()),
        (other_classes, 12, "class name is dog, expected bee".to_owned()),
        (CacheSpec { fit: Fit::Pad, ..spec() }, 12, "fit is crop, expected pad".to_owned()),
        (CacheSpec { dtype: DType::BF16, ..spec() }, 12, "dtype is f32, expected bf16".to_owned()),
        (spec(), 13, "number of pictures is 12, expected 13".to_owned()),
    ];
    for (spec, count, expected) in cases {
        let error = message(write_part(folder.path(), &spec, count, Part::WHOLE, &[]));
        assert!(error.contains(&expected), "{error}");
    }
    let mut renamed = entries(12);
    renamed[5].path = "dog/other.png".to_owned();
    let error = message(CacheWriter::open(folder.path(), spec(), renamed, Part::WHOLE).map(drop));
    assert!(error.contains("paths and labels"), "{error}");
    assert!(contents(folder.path()) == before);
    // The same codec under another name is the same.
    let mut renamed = spec();
    renamed.images.codec = CodecRecord::File { name: "other.ckpt".to_owned(), sha256: "ab".repeat(32) };
    assert!(write_part(folder.path(), &renamed, 12, Part::WHOLE, &[]).unwrap().is_empty());
}

#[test]
fn caches_for_another_model_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), &spec(), 4, Part::WHOLE, &[]).unwrap();
    merge(folder.path()).unwrap();
    let codec = CodecRecord::Patch(4);
    let none = Expected::default();
    let cases = [
        (Expected { codec: Some(&codec), ..none }, "codec of the cache: expected patch:4, got the file"),
        (Expected { size: Some(32), ..none }, "size of the cache: expected 32, got 64"),
        (Expected { channels: Some(1), ..none }, "channels of the cache: expected 1, got 3"),
        (Expected { fit: Some(Fit::Pad), ..none }, "fit of the cache: expected pad, got crop"),
        (Expected { shape: Some([16, 8, 8]), ..none }, "shape of the cache: expected 16x8x8, got 2x2x3"),
    ];
    for (expected, part) in cases {
        let error = message(CachedDataset::open(folder.path(), &expected));
        assert!(error.contains(part), "{error}");
    }
    let own = spec().images;
    let expected = Expected { fit: Some(Fit::Crop), ..Expected::from(&own) };
    assert!(CachedDataset::open(folder.path(), &expected).is_ok());
}

#[test]
fn damaged_latents_are_named_with_shard_and_entry() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), &latents(4), 8, Part::WHOLE, &[]).unwrap();
    merge(folder.path()).unwrap();
    let shard = folder.path().join("shard-00001.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let stored = values(&entries(8)[6].path, 1)[0].to_le_bytes();
    let at = bytes.windows(4).position(|window| window == stored).unwrap();
    bytes[at] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let cache = open(folder.path()).unwrap();
    for index in 0..8 {
        let read = cache.read(index, &mut stream(0), &mut Vec::new());
        assert_eq!(read.is_err(), index == 6);
        if let Err(error) = read {
            let error = error.to_string();
            assert!(error.contains("shard-00001.safetensors: tensor latents"), "{error}");
            assert!(error.contains("row 2, entry eel/0006.png"), "{error}");
        }
    }
}

#[test]
fn shards_of_other_caches_are_refused() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_part(folder.path(), &latents(4), 8, Part::WHOLE, &[]).unwrap();
    merge(folder.path()).unwrap();
    write_part(other.path(), &CacheSpec { fit: Fit::Pad, ..latents(4) }, 8, Part::WHOLE, &[]).unwrap();
    let shard = |n: usize| format!("shard-{n:05}.safetensors");
    for (from, number, expected) in [(&other, 1, "another cache"), (&folder, 0, "expected shard 1, got 0")] {
        fs::copy(from.path().join(shard(number)), folder.path().join(shard(1))).unwrap();
        let error = message(open(folder.path()).unwrap().read(5, &mut stream(0), &mut Vec::new()));
        assert!(error.contains(expected), "{error}");
        let error = message(merge(folder.path()));
        assert!(error.contains(expected) && error.contains("1 of 2 shards"), "{error}");
    }
}

#[test]
fn invalid_rows_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let spec = CacheSpec { dtype: DType::BF16, ..latents(4) };
    let writer =
        CacheWriter::open(folder.path(), spec.clone(), entries(6), Part::new(1, 2).unwrap()).unwrap();
    assert!(message(writer.begin(0)).contains("shard of part 1/2"));
    let mut rows = writer.begin(1).unwrap();
    for values in [&[][..], &[1.0, 2.0]] {
        assert!(message(rows.push(values)).contains("1x1x1x1 values"));
    }
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let error = message(rows.push(&[value]));
        assert!(error.contains("finite latents of eel/0004.png in bf16"), "{error}");
    }
    rows.push(&[1.0]).unwrap();
    assert!(message(rows.finish()).contains("expected 2 entries of shard 1, got 1"));
    let labelled = |label| {
        let mut entries = entries(1);
        entries[0].label = label;
        CacheWriter::open(folder.path().join("other"), spec.clone(), entries, Part::WHOLE).map(drop)
    };
    assert!(message(labelled(3)).contains("labels below 3, got 3 of cat/0000.png"));
    assert!(message(CacheWriter::open(folder.path(), spec, vec![], Part::WHOLE).map(drop)).contains("got 0"));
}

#[test]
fn draws_depend_on_the_stream_alone() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), &spec(), 12, Part::WHOLE, &[]).unwrap();
    merge(folder.path()).unwrap();
    let cache = open(folder.path()).unwrap();
    let read = |epoch| {
        let mut out = Vec::new();
        let mut stream = StreamKey::new(1, Purpose::Posterior, 7, epoch).stream();
        cache.read(7, &mut stream, &mut out).unwrap();
        out
    };
    assert_eq!(read(0), read(0));
    assert_ne!(read(0), read(1));
}

#[test]
fn invalid_headers_are_named_errors() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), &spec(), 4, Part::WHOLE, &[]).unwrap();
    let path = folder.path().join("cache.json");
    let text = fs::read_to_string(&path).unwrap();
    let cases = [
        ("\"version\": 1", "\"version\": 2", "format version 2 of a cache, expected version 1"),
        ("\"fit\": \"crop\"", "\"fit\": \"warp\"", "no header of a cache"),
        ("\"dtype\": \"f32\"", "\"dtype\": \"i32\"", "config value dtype: expected f32 or bf16, got i32"),
        ("\"shard_entries\": 4", "\"shard_entries\": 0", "config value shard_entries"),
        ("\"latent_scale\": 0.5", "\"latent_scale\": -1", "config value latent_scale"),
        ("\"entries\": 4", "\"entries\": 4294967296", "fewer than 2^32 pictures"),
        ("{", "[", "no header of a cache"),
    ];
    for (from, to, expected) in cases {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        for error in [message(open(folder.path())), message(merge(folder.path()))] {
            assert!(error.contains(expected) && error.contains("cache.json"), "{error}");
        }
    }
}
