//! Datasets of pictures: images, draws, broken pictures, threads.

use std::path::Path;

use tempfile::TempDir;
use transdiff_core::data::Dataset;
use transdiff_core::rng::{Philox, Purpose, StreamKey};
use transdiff_data::pictures::{Crop, Fit, ImageFolder, OnBroken, PictureDataset, PictureOptions};

/// Writes a grey picture whose columns have the values 0, 1, 2, … plus `offset`.
fn write_ramp(path: &Path, width: u32, height: u32, offset: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels: Vec<u8> = (0..width * height).map(|i| (i % width) as u8 + offset).collect();
    image::GrayImage::from_raw(width, height, pixels)
        .unwrap()
        .save_with_format(path, image::ImageFormat::Png)
        .unwrap();
}

/// Two classes of pictures of 24×16 pixels, three in the first and two in the second.
fn pictures() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, offset) in
        [("a/0.png", 0), ("a/1.png", 10), ("a/2.JPEG", 20), ("b/0.png", 30), ("b/1.png", 40)]
    {
        write_ramp(&root.path().join(name), 24, 16, offset);
    }
    root
}

fn options(size: usize) -> PictureOptions {
    PictureOptions { channels: 1, ..PictureOptions::new(size) }
}

fn dataset(root: &TempDir, options: PictureOptions) -> PictureDataset {
    PictureDataset::new(ImageFolder::open(root.path()).unwrap(), options).unwrap()
}

fn stream(step: u32) -> Philox {
    StreamKey::new(7, Purpose::Data, 0, step).stream()
}

/// Reads an item as grey levels.
fn read(dataset: &PictureDataset, index: usize, step: u32) -> Vec<u8> {
    let mut out = Vec::new();
    dataset.read(index, &mut stream(step), &mut out).unwrap();
    assert_eq!(out.len(), dataset.item_shape().iter().product::<usize>());
    out.iter().map(|v| ((v + 1.0) * 127.5).round() as u8).collect()
}

#[test]
fn flip_and_crop_are_the_draws_in_this_order() {
    let root = pictures();
    let dataset = dataset(&root, options(16));
    let (mut flips, mut places) = (0, Vec::new());
    for step in 0..40 {
        let mut expected = stream(step);
        let flip = expected.uniform() < 0.5;
        let place = expected.below(9) as u8;
        let mut row: Vec<u8> = (place..place + 16).collect();
        if flip {
            row.reverse();
        }
        assert_eq!(read(&dataset, 0, step), row.repeat(16), "step {step}");
        flips += u32::from(flip);
        places.push(place);
    }
    assert!((8..32).contains(&flips) && places.iter().max() != places.iter().min());
    // Without flips the crops are the same.
    let plain = self::dataset(&root, PictureOptions { flip: false, ..options(16) });
    for (step, &place) in (0..).zip(&places) {
        assert_eq!(read(&plain, 0, step)[..16], (place..place + 16).collect::<Vec<u8>>());
    }
}

#[test]
fn items_are_labelled_images_of_one_shape() {
    let root = pictures();
    let options = PictureOptions { channels: 3, ..options(32) };
    let dataset = dataset(&root, options);
    assert_eq!((dataset.len(), dataset.item_shape()), (5, [3, 32, 32]));
    assert_eq!((0..5).map(|index| dataset.label(index)).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    let mut out = Vec::new();
    for index in 0..5 {
        dataset.read(index, &mut stream(0), &mut out).unwrap();
    }
    assert_eq!(out.len(), 5 * 3 * 32 * 32);
    assert!(out.iter().all(|v| (-1.0..=1.0).contains(v)));
}

#[test]
fn padding_ignores_the_crop() {
    let root = pictures();
    let options = PictureOptions { fit: Fit::Pad, flip: false, ..options(32) };
    let dataset = dataset(&root, options);
    let image = read(&dataset, 1, 0);
    let row: Vec<u8> = [vec![0; 4], (10..34).collect(), vec![0; 4]].concat();
    assert_eq!(image, [vec![0; 8 * 32], row.repeat(16), vec![0; 8 * 32]].concat());
}

#[test]
fn mirror_images_are_of_the_centre() {
    let root = pictures();
    let dataset = dataset(&root, options(16));
    let mut out = Vec::new();
    dataset.read_with_mirror(0, &mut out).unwrap();
    let levels: Vec<u8> = out.iter().map(|v| ((v + 1.0) * 127.5).round() as u8).collect();
    let row: Vec<u8> = (4..20).collect();
    let mirrored: Vec<u8> = row.iter().rev().copied().collect();
    assert_eq!(levels, [row.repeat(16), mirrored.repeat(16)].concat());
    // A dataset with this crop reads the same.
    let adm = self::dataset(&root, PictureOptions { crop: Crop::Adm, flip: false, ..options(16) });
    assert_eq!(read(&adm, 0, 3), row.repeat(16));
}

#[test]
fn broken_pictures_stop_by_name() {
    let root = pictures();
    std::fs::write(root.path().join("a/1.png"), "no picture").unwrap();
    let dataset = dataset(&root, options(16));
    let error = dataset.read(1, &mut stream(0), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("a/1.png") && error.contains("got another file"), "{error}");
    assert_eq!(dataset.broken_count(), 1);
}

#[test]
fn broken_pictures_are_skipped_counted_and_named() {
    let root = pictures();
    std::fs::write(root.path().join("a/2.JPEG"), b"\xFF\xD8\xFF").unwrap();
    std::fs::remove_file(root.path().join("b/0.png")).unwrap();
    let folder = {
        // The file disappears after the folder was read.
        write_ramp(&root.path().join("b/0.png"), 24, 16, 30);
        let folder = ImageFolder::open(root.path()).unwrap();
        std::fs::remove_file(root.path().join("b/0.png")).unwrap();
        folder
    };
    let options = PictureOptions { on_broken: OnBroken::Skip, ..options(16) };
    let dataset = PictureDataset::new(folder, options).unwrap();
    // The next picture of the same class, with the same draws, in any order of reading.
    for _ in 0..2 {
        assert_eq!(read(&dataset, 2, 5), read(&dataset, 0, 5));
        assert_eq!(read(&dataset, 3, 5), read(&dataset, 4, 5));
    }
    let broken = dataset.broken();
    assert_eq!(broken.iter().map(|b| b.path.as_str()).collect::<Vec<_>>(), ["a/2.JPEG", "b/0.png"]);
    assert!(broken[0].message.contains("JPEG picture: the file is truncated"), "{}", broken[0].message);
    assert_eq!(dataset.broken_count(), 2);
    assert!(dataset.read_with_mirror(2, &mut Vec::new()).is_err());
    std::fs::write(root.path().join("b/1.png"), "").unwrap();
    let error = dataset.read(4, &mut stream(0), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("none of the 2 pictures of this class can be decoded"), "{error}");
    assert!(error.contains("empty file"), "{error}");
}

#[test]
fn threads_read_the_same_as_one() {
    let root = pictures();
    std::fs::write(root.path().join("a/1.png"), "no picture").unwrap();
    let options = PictureOptions { on_broken: OnBroken::Skip, ..options(20) };
    let dataset = dataset(&root, options);
    let items = |dataset: &PictureDataset| -> Vec<Vec<u8>> {
        (0..50).map(|step| read(dataset, step as usize % 5, step)).collect()
    };
    let expected = items(&dataset);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| items(&dataset))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
    assert_eq!(dataset.broken_count(), 1);
}

#[test]
fn options_have_names_and_ranges() {
    assert_eq!("pad".parse::<Fit>().unwrap(), Fit::Pad);
    assert_eq!("adm".parse::<Crop>().unwrap().name(), "adm");
    let error = "halt".parse::<OnBroken>().unwrap_err().to_string();
    assert_eq!(error, "argument on-broken: expected stop or skip, got halt");
    let root = pictures();
    let new = |options| PictureDataset::new(ImageFolder::open(root.path()).unwrap(), options);
    assert!(new(PictureOptions { channels: 2, ..options(16) }).is_err());
    assert!(new(options(0)).is_err());
}
