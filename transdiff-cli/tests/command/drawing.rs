//! Folders of pictures that tests draw, caches, and the arguments of tiny training runs on them.

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use transdiff::DType;
use transdiff::datasets::cache::{CacheEntry, CacheSpec, CacheWriter, ItemKind, Part, merge};
use transdiff::datasets::pictures::Fit;
use transdiff::models::{CodecRecord, ImageSpec};

use crate::files::Folder;

/// Formats of the pictures, with endings in either case.
const FORMATS: [(&str, ImageFormat); 4] = [
    ("png", ImageFormat::Png),
    ("JPEG", ImageFormat::Jpeg),
    ("webp", ImageFormat::WebP),
    ("bmp", ImageFormat::Bmp),
];
const COLOURS: [(&str, [u8; 3]); 4] =
    [("blue", [20, 40, 220]), ("green", [30, 180, 60]), ("red", [220, 30, 30]), ("white", [250, 250, 250])];

/// Draws pictures of coloured shapes of about 64 pixels, of different sizes and formats, in 8 classes of `per_class`.
pub fn shapes(folder: &Folder, name: &str, per_class: usize) -> String {
    let root = folder.path(name);
    for (colour, pixel) in COLOURS {
        for shape in ["disc", "square"] {
            let class = format!("{root}/{colour} {shape}");
            std::fs::create_dir_all(&class).unwrap();
            for number in 0..per_class {
                let (ending, format) = FORMATS[number % FORMATS.len()];
                let picture = DynamicImage::from(draw(shape, pixel, number as u32));
                picture.save_with_format(format!("{class}/{number}.{ending}"), format).unwrap();
            }
        }
    }
    root
}

fn draw(shape: &str, pixel: [u8; 3], number: u32) -> RgbImage {
    let (width, height) = (56 + 7 * (number % 4), 72 - 5 * (number % 3));
    let radius = f64::from(14 + number % 9);
    RgbImage::from_fn(width, height, |x, y| {
        let dx = (f64::from(x) - f64::from(width) / 2.0).abs();
        let dy = (f64::from(y) - f64::from(height) / 2.0).abs();
        let distance = if shape == "disc" { dx.hypot(dy) } else { dx.max(dy) };
        let ground = 60 + ((x * 7 + y * 13 + number * 29) % 32) as u8;
        Rgb(if distance < radius { pixel } else { [ground; 3] })
    })
}

/// Draws pictures of 16 × 16 pixels, `per_class` for each of `classes`.
pub fn tiles(folder: &Folder, name: &str, classes: &[&str], per_class: usize) -> String {
    let root = folder.path(name);
    for (label, class) in classes.iter().enumerate() {
        std::fs::create_dir_all(format!("{root}/{class}")).unwrap();
        for number in 0..per_class {
            let level = |i: u32| (40 + 60 * label as u32 + 16 * i + 5 * number as u32) as u8;
            let tile =
                RgbImage::from_fn(16, 16, |x, y| Rgb([level(x / 4), level(y / 4), level((x + y) / 8)]));
            tile.save(format!("{root}/{class}/{number}.png")).unwrap();
        }
    }
    root
}

/// Writes a cache of latents of four values, of which those at `huge` are not in the range of any loss.
pub fn latents(folder: &Folder, name: &str, huge: impl Fn(usize) -> bool) -> String {
    let out = folder.path(name);
    let spec = CacheSpec {
        images: ImageSpec {
            codec: CodecRecord::Patch(2),
            channels: 1,
            size: 4,
            classes: ["a", "b"].map(str::to_owned).to_vec(),
        },
        fit: Fit::Crop,
        flip: false,
        items: ItemKind::Latents,
        shape: [4, 2, 2],
        latent_scale: 1.0,
        dtype: DType::F32,
        shard_entries: 64,
    };
    let entry = |i: usize| CacheEntry { path: format!("{}/{i}", ["a", "b"][i % 2]), label: i as u32 % 2 };
    let writer = CacheWriter::open(&out, spec, (0..64).map(entry).collect(), Part::WHOLE).unwrap();
    let mut rows = writer.begin(0).unwrap();
    for i in 0..64 {
        rows.push(&[if huge(i) { 1e30 } else { (i % 7) as f32 / 7.0 }; 16]).unwrap();
    }
    rows.finish().unwrap();
    drop(writer);
    merge(&out).unwrap();
    out
}

/// Settings of a tiny model, with four samples per step and no grids of samples.
const TINY: [&str; 8] = [
    "model.width=8",
    "model.heads=2",
    "model.encoder_blocks=1",
    "model.decoder_blocks=1",
    "model.mlp_ratio=2",
    "train.batch=4",
    "train.sample_every=0",
    "train.report_every=4",
];

/// Arguments of the training of a tiny model.
pub fn train<'a>(data: &'a str, out: &'a str, steps: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "--data", data, "--out", out, "--steps", steps, "--device", "cpu"];
    args.extend(["--threads", "1"]);
    TINY.iter().chain(settings).for_each(|setting| args.extend(["--set", setting]));
    args
}

/// Arguments that resume a run.
pub fn resume<'a>(run: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "--resume", run, "--device", "cpu", "--threads", "1"];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    args
}

/// Arguments of a cache of pictures in patches of 4 × 4.
pub fn cache<'a>(data: &'a str, size: &'a str, out: &'a str) -> Vec<&'a str> {
    vec!["cache", "--data", data, "--codec", "patch:4", "--size", size, "--out", out, "--device", "cpu"]
}
