//! npz files, and the import of a folder of them. The files are those of the fuzz target's corpus, written by NumPy.

#[path = "../../tests/common/allocation.rs"]
mod allocation;
mod cache_common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cache_common::{contents, message, stream};
use transdiff_core::data::Dataset;
use transdiff_core::models::CodecRecord;
use transdiff_core::{DType, Error, Result};
use transdiff_data::cache::{
    CacheSummary, CachedDataset, Expected, NpzImport, Part, import_npz, is_npz_folder,
};
use transdiff_data::npz::NpzFile;
use transdiff_data::pictures::{Fit, OnBroken};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/npz").join(name)
}

/// Elements of `moments` in the corpus.
fn moments() -> Vec<f32> {
    (0..16).map(|i| i as f32 / 4.0 - 1.0).collect()
}

fn read(name: &str) -> Result<Vec<f32>> {
    let mut file = NpzFile::open(corpus(name))?;
    let arrays = ["moments", "moments_flip"].map(|key| file.array::<f32>(key));
    let [moments, flipped] = arrays;
    let (moments, flipped) = (moments?, flipped?);
    assert_eq!((&*moments.shape, &*flipped.shape), (&[4, 2, 2][..], &[4, 2, 2][..]));
    assert!(moments.values.chunks(2).zip(flipped.values.chunks(2)).all(|(a, b)| a == [b[1], b[0]]));
    Ok(moments.values)
}

#[test]
fn stored_and_deflated_arrays_of_every_width_are_read() {
    for name in ["valid", "valid_deflated", "valid_f16", "valid_f64"] {
        assert_eq!(read(name).unwrap(), moments(), "{name}");
    }
    assert_eq!(
        NpzFile::open(corpus("version_2")).unwrap().array::<f32>("moments").unwrap().values,
        moments()
    );
}

#[test]
fn invalid_files_are_named_errors() {
    let cases = [
        ("empty", "no npz file, or a truncated one"),
        ("truncated", "no npz file, or a truncated one"),
        ("flip_missing", "no array moments_flip; the file has moments"),
        ("fortran_order", "tensor moments: expected row-major order; numpy.ascontiguousarray converts, got"),
        ("big_endian", "tensor moments: expected float elements ('<f2', '<f4' or '<f8'), got"),
        ("integers", "float elements"),
        ("objects", "float elements"),
        ("values_nan", "tensor moments: expected finite values, got NaN at element 5"),
        ("deflated_bomb", "got an array of shape 4x512x1024"),
        ("data_truncated", "expected 64 bytes for shape 4x2x2, got 61: truncated"),
        ("data_too_long", "expected 64 bytes for shape 4x2x2, got more"),
        ("shape_overflows", "got an array of shape 4294967296x4294967296x2"),
        ("shape_of_a_terabyte", "got an array of shape 1024x16384x16384"),
        ("shape_negative", "expected a shape of numbers"),
        ("header_longer_than_the_file", "a header of at most 4096 bytes, got 4294967295 bytes"),
        ("header_without_shape", "a header with 'shape'"),
        ("header_nested_deep", "float elements"),
        ("not_npy", "the header of an npy file"),
        ("checksum_wrong", "tensor moments"),
    ];
    for (name, expected) in cases {
        let (error, peak) = allocation::peak_of(|| message(read(name)));
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        assert!(peak < 4 << 20, "{name}: {peak} bytes");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(message(NpzFile::open(folder.path()).map(drop)).contains("not a regular file"));
}

/// The pictures `arr_0` of a file of the corpus, and their height and width.
fn pictures(name: &str) -> Result<(Vec<u8>, [usize; 2])> {
    let (mut pixels, mut sides) = (Vec::new(), [0; 2]);
    let count = NpzFile::open(corpus(name))?.pictures("arr_0", |of_picture, picture| {
        sides = of_picture;
        pixels.extend_from_slice(picture);
        Ok(())
    })?;
    assert_eq!(count, NpzFile::open(corpus(name))?.picture_count("arr_0")?);
    Ok((pixels, sides))
}

#[test]
fn pictures_are_read_one_by_one() {
    for name in ["pictures", "statistics_and_pictures_deflated"] {
        assert_eq!(pictures(name).unwrap(), ((0..36).collect(), [3, 2]), "{name}");
    }
    let mut file = NpzFile::open(corpus("statistics_and_pictures_deflated")).unwrap();
    let covariance = file.array::<f64>("sigma").unwrap();
    assert_eq!((&*covariance.shape, covariance.values[4]), (&[3, 3][..], 1.0));
    for (name, expected) in [
        ("pictures_without_pixels", "expected 1 to 67108864 bytes per picture"),
        (
            "pictures_of_64_mebibytes",
            "expected 603942912 bytes for shape 9x4096x5461x3, got fewer: truncated",
        ),
        ("pictures_truncated", "expected 36 bytes for shape 3x2x2x3, got fewer: truncated"),
        ("valid", "no array arr_0; the file has"),
        ("pictures_of_floats", "expected elements of 8 bits ('|u1'), got {'descr': '<f4'"),
    ] {
        let (error, peak) = allocation::peak_of(|| message(pictures(name)));
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        assert!(peak < 4 << 20, "{name}: {peak} bytes");
    }
}

fn import() -> NpzImport {
    NpzImport {
        codec: CodecRecord::File { name: "kl16.ckpt".to_owned(), sha256: "cd".repeat(32) },
        channels: 3,
        size: 32,
        fit: Fit::Crop,
        shape: [2, 2, 2],
        latent_scale: 1.0,
        dtype: DType::F32,
        on_broken: OnBroken::Stop,
    }
}

/// Imports a whole folder.
fn run(folder: &Path, out: &Path, import: &NpzImport) -> Result<CacheSummary> {
    let summary = import_npz(folder, out, import, Part::WHOLE, &mut |_| ControlFlow::Continue(()))?;
    Ok(summary.expect("a whole cache is merged"))
}

/// A folder of classes with copies of files of the corpus.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, name) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(corpus(name), path).unwrap();
    }
    folder
}

#[test]
fn folder_is_imported_in_torchvision_order() {
    let folder = folder(&[
        ("train/n2/b.JPEG.npz", "valid"),
        ("train/n2/a.NPZ", "valid_f16"),
        ("train/n1/sub/c.npz", "valid_deflated"),
        ("train/n1/z.npz", "valid"),
        ("train/n1/Z.npz", "valid"),
        ("train/n1/readme.txt", "empty"),
        ("train/readme.txt", "empty"),
    ]);
    let out = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let mut observer = |progress: &_| {
        seen.push(*progress);
        ControlFlow::Continue(())
    };
    let summary = import_npz(folder.path(), out.path(), &import(), Part::WHOLE, &mut observer).unwrap();
    assert_eq!((summary.unwrap().entries, seen.len()), (5, 5));
    assert_eq!((seen[2].done, seen[2].total, seen[2].broken), (3, 5, 0));
    let cache = CachedDataset::open(out.path(), &Expected::default()).unwrap();
    let paths: Vec<String> = (0..5).map(|i| cache.path(i).unwrap()).collect();
    assert_eq!(paths, ["n1/Z", "n1/z", "n1/sub/c", "n2/a", "n2/b.JPEG"]);
    assert_eq!(cache.header().spec.images.classes, ["n1", "n2"]);
    assert_eq!((cache.label(2), cache.label(3), cache.item_shape()), (0, 1, [2, 2, 2]));
    let (mut stream, mut out) = (stream(3), Vec::new());
    cache.read(4, &mut stream.clone(), &mut out).unwrap();
    let flipped = stream.below(2) == 1;
    let stored = moments();
    for (i, drawn) in out.into_iter().enumerate() {
        let at = if flipped { i ^ 1 } else { i };
        let std = (0.5 * f64::from(stored[8 + at])).exp();
        assert_eq!(drawn, (f64::from(stored[at]) + std * stream.normal()) as f32);
    }
}

#[test]
fn broken_files_stop_the_import_or_are_left_out() {
    let folder = folder(&[
        ("a/1.npz", "flip_missing"),
        ("a/2.npz", "valid"),
        ("b/3.npz", "truncated"),
        ("b/4.npz", "shape_of_two_axes"),
    ]);
    let out = tempfile::tempdir().unwrap();
    let stop = run(folder.path(), out.path(), &import());
    assert!(message(stop).contains("moments_flip"));
    assert!(!contents(out.path()).contains_key("shard-00000.safetensors"));
    let skip = NpzImport { on_broken: OnBroken::Skip, ..import() };
    let summary = run(folder.path(), out.path(), &skip).unwrap();
    let skipped: Vec<&str> = summary.skipped.iter().map(|picture| picture.path.as_str()).collect();
    assert_eq!((summary.entries, skipped), (1, vec!["a/1", "b/3", "b/4"]));
    assert!(summary.skipped[2].reason.contains("expected shape 4x2x2, got 4x4"), "{:?}", summary.skipped[2]);
    // Imported again, nothing is read.
    let again = &mut |_: &_| ControlFlow::Break(());
    assert!(import_npz(folder.path(), out.path(), &skip, Part::WHOLE, again).is_ok());
    let other = tempfile::tempdir().unwrap();
    let cancelled = import_npz(folder.path(), other.path(), &skip, Part::WHOLE, again);
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn folders_for_another_codec_are_refused_also_where_broken_files_are_left_out() {
    let folder = folder(&[("a/1.npz", "truncated"), ("a/2.npz", "valid"), ("b/3.npz", "valid")]);
    let out = tempfile::tempdir().unwrap();
    let import = NpzImport { shape: [2, 4, 4], on_broken: OnBroken::Skip, ..import() };
    let error = message(run(folder.path(), out.path(), &import));
    assert!(error.contains("1.npz: "), "{error}");
    fs::remove_file(folder.path().join("a/1.npz")).unwrap();
    let error = message(run(folder.path(), out.path(), &import));
    assert!(error.contains("2.npz") && error.contains("expected shape 4x4x4, got 4x2x2"), "{error}");
    assert!(contents(out.path()).is_empty());
}

#[test]
fn folders_of_npz_files_are_recognised() {
    let recognised = |files: &[(&str, &str)]| is_npz_folder(folder(files).path()).unwrap();
    assert!(recognised(&[("a/sub/1.NPZ", "empty"), ("b/x.png", "empty")]));
    assert!(recognised(&[("train/a/1.npz", "empty"), ("val/a/x.png", "empty")]));
    // A class called `train`.
    assert!(recognised(&[("train/1.npz", "empty"), ("plane/2.npz", "empty")]));
    assert!(!recognised(&[("a/1.npz", "empty"), ("a/1.png", "empty")]));
    assert!(!recognised(&[("a/1.txt", "empty"), ("x.npz", "empty")]));
    assert!(!recognised(&[]));
}

#[test]
fn folders_without_classes_or_files_are_refused() {
    let refused = |files: &[(&str, &str)]| {
        let out = tempfile::tempdir().unwrap();
        message(run(folder(files).path(), out.path(), &import()))
    };
    assert!(refused(&[]).contains("no class folders: expected the npz files of each class"));
    assert!(
        refused(&[("a/1.npz", "valid"), ("b/2.txt", "valid")])
            .contains("no npz files (.npz) in the class folders \"b\"")
    );
    assert!(refused(&[("a/1.npz", "shape_of_two_axes")]).contains("expected shape 4x2x2, got 4x4"));
}
