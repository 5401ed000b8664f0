//! Reads a folder of pictures and prints pictures per second as a JSON line, with the keys of `peer/pictures.py`.
//!
//! `cargo bench -p transdiff-data --bench pictures -- FOLDER`; `--write` fills FOLDER with JPEG files first.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use serde_json::json;
use transdiff_core::data::Dataset;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_data::pictures::{ImageFolder, PictureDataset, PictureOptions};

#[derive(Parser)]
struct Options {
    /// Folder of class folders
    folder: PathBuf,
    /// Write JPEG files of 300×200 pixels to the folder first
    #[arg(long)]
    write: bool,
    /// Number of pictures that --write writes
    #[arg(long, default_value_t = 2000)]
    pictures: u32,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Number of threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Number of times that each picture is read
    #[arg(long, default_value_t = 2)]
    epochs: u32,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if options.write {
        write_pictures(&options.folder, options.pictures)?;
    }
    let dataset =
        PictureDataset::new(ImageFolder::open(&options.folder)?, PictureOptions::new(options.size))?;
    // The first epoch reads the files into the page cache.
    read(&dataset, options.threads, 0..1)?;
    let begin = Instant::now();
    let count = read(&dataset, options.threads, 1..1 + options.epochs)?;
    let seconds = begin.elapsed().as_secs_f64();
    let line = json!({"what": "pictures", "side": "transdiff", "threads": options.threads, "pictures": count,
        "seconds": seconds, "per_second": count as f64 / seconds});
    println!("{line}");
    Ok(())
}

/// Reads all pictures in each of `epochs`, and returns how many were read.
fn read(
    dataset: &PictureDataset,
    threads: usize,
    epochs: std::ops::Range<u32>,
) -> transdiff_core::Result<usize> {
    let (first, count) = (epochs.start, epochs.len() * dataset.len());
    let next = AtomicUsize::new(0);
    let work = || -> transdiff_core::Result<()> {
        let mut image = Vec::new();
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= count {
                return Ok(());
            }
            let (epoch, index) = (first + (item / dataset.len()) as u32, item % dataset.len());
            let mut stream = StreamKey::new(0, Purpose::Data, index as u32, epoch).stream();
            image.clear();
            dataset.read(index, &mut stream, &mut image)?;
            std::hint::black_box(&image);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(count)
}

/// Writes JPEG files of 300×200 pixels in ten classes: waves and noise, at the size in bytes of photographs.
fn write_pictures(folder: &Path, count: u32) -> Result<(), Box<dyn Error>> {
    for class in 0..10 {
        fs::create_dir_all(folder.join(class.to_string()))?;
    }
    for number in 0..count {
        let mut noise = StreamKey::new(1, Purpose::Data, number, 0).stream();
        let phase = noise.uniform() as f32 * 6.0;
        let picture = RgbImage::from_fn(300, 200, |x, y| {
            let (x, y) = (x as f32 / 23.0 + phase, y as f32 / 17.0);
            let grain = noise.below(32) as f32;
            Rgb([x.sin() + y.cos(), (x * y / 9.0).sin(), (x - y).cos()]
                .map(|v| (110.0 + 55.0 * v + grain) as u8))
        });
        let path = folder.join((number % 10).to_string()).join(format!("{number:05}.jpg"));
        JpegEncoder::new_with_quality(fs::File::create(path)?, 90).encode_image(&picture)?;
    }
    Ok(())
}
