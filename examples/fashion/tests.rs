//! Tests with small generated files.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

const ROWS: usize = 2;
const COLUMNS: usize = 3;

/// An idx file of unsigned bytes.
fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
    [0, 0, 8, sizes.len() as u8 / 4].into_iter().chain(sizes).chain(bytes.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Three pictures per class, in turns; picture `n` has pixels `n`, `n` + 1, ….
fn images() -> Vec<u8> {
    let pixels: Vec<u8> = (0..30).flat_map(|n| (0..6).map(move |pixel| n + pixel)).collect();
    idx(&[30, ROWS as u32, COLUMNS as u32], &pixels)
}

fn labels() -> Vec<u8> {
    idx(&[30], &(0..30).map(|n| n % 10).collect::<Vec<u8>>())
}

/// A dataset with the same pictures in both parts.
fn dataset(images: &[u8], labels: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for part in ["train", "t10k"] {
        std::fs::write(folder.path().join(format!("{part}-images-idx3-ubyte.gz")), images).unwrap();
        std::fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte.gz")), labels).unwrap();
    }
    folder
}

fn convert(data: &Path, out: &Path, train: usize) -> Result<(), String> {
    run(&Arguments { out: out.to_owned(), data: data.to_owned(), train, held_out: 1 })
}

/// Error of a conversion, without the folder's name.
fn error(images: &[u8], labels: &[u8], train: usize) -> String {
    let (data, out) = (dataset(images, labels), TempDir::new().unwrap());
    let error = convert(data.path(), out.path(), train).unwrap_err();
    error.strip_prefix(&format!("{}/", data.path().display())).expect("names the file").to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn first_pictures_of_each_class_become_png_files() {
    let (data, out) = (dataset(&gzip(&images()), &gzip(&labels())), TempDir::new().unwrap());
    convert(data.path(), out.path(), 2).unwrap();
    let mut classes = CLASSES.map(str::to_owned);
    classes.sort();
    assert_eq!(names(&out.path().join("train")), classes);
    assert_eq!(names(&out.path().join("train/sandal")), ["00005.png", "00015.png"]);
    assert_eq!(names(&out.path().join("held-out/sandal")), ["00005.png"]);
    let file = std::fs::File::open(out.path().join("train/sandal/00015.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = [0; ROWS * COLUMNS];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Grayscale));
    assert_eq!(pixels, [15, 16, 17, 18, 19, 20]);
}

#[test]
fn files_may_be_plain() {
    let (data, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for part in ["train", "t10k"] {
        std::fs::write(data.path().join(format!("{part}-images-idx3-ubyte")), images()).unwrap();
        std::fs::write(data.path().join(format!("{part}-labels-idx1-ubyte")), labels()).unwrap();
    }
    convert(data.path(), out.path(), 3).unwrap();
    assert_eq!(names(&out.path().join("train/bag")), ["00008.png", "00018.png", "00028.png"]);
}

#[test]
fn existing_pictures_are_not_mixed_with_others() {
    let (data, out) = (dataset(&images(), &labels()), TempDir::new().unwrap());
    convert(data.path(), out.path(), 2).unwrap();
    let error = convert(data.path(), out.path(), 1).unwrap_err();
    assert!(error.ends_with("train: already exists; remove it, or choose another --out"), "{error}");
}

#[test]
fn broken_files_are_named_with_the_fault() {
    const IMAGES: &str = "train-images-idx3-ubyte.gz: ";
    const LABELS: &str = "train-labels-idx1-ubyte.gz: ";
    let (images, labels) = (images(), labels());
    let longer = [&images[..], &[0]].concat();
    let cases: [(&[u8], &[u8], &str, &str); 8] = [
        (&images[..images.len() - 1], &labels, IMAGES, "ends after 29 of 30 items"),
        (&longer, &labels, IMAGES, "expected the end after 30 items, got more bytes"),
        (&labels, &labels, IMAGES, "expected an idx file with magic 0x00000803, got 0x00000801"),
        (&images[..9], &labels, IMAGES, "the header of an idx file: "),
        (&idx(&[30, 0, 3], &[]), &labels, IMAGES, "expected sizes from 1 to 4096, got 0"),
        (&idx(&[u32::MAX, 2, 3], &[]), &labels, IMAGES, "expected sizes from 1 to 10000000, got 4294967295"),
        (&images, &idx(&[29], &[0; 29]), LABELS, "expected 30 labels, one per picture, got 29"),
        (&images, &idx(&[30], &[10; 30]), LABELS, "expected labels from 0 to 9, got 10"),
    ];
    for (images, labels, file, message) in cases {
        let error = error(images, labels, 3);
        assert!(error.starts_with(&format!("{file}{message}")), "{error}");
    }
    let cut = gzip(&images);
    let message = error(&cut[..cut.len() - 12], &gzip(&labels), 3);
    assert!(message.starts_with(IMAGES), "{message}");
    let message = error(&images, &labels, 4);
    assert_eq!(message, format!("{LABELS}expected at least 4 pictures of t-shirt, got 3"));
}

#[test]
fn missing_files_are_named() {
    let folder = TempDir::new().unwrap();
    let error = convert(folder.path(), &folder.path().join("out"), 1).unwrap_err();
    assert!(error.contains("train-images-idx3-ubyte.gz: "), "{error}");
}
