//! Turns Fashion-MNIST into class folders of PNG files, as `transdiff cache` and `transdiff train` read them.
//!
//! `cargo run --release --example fashion -- --out PICTURES`; `train.toml` has settings to train on them.
//!
//! Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf (<https://github.com/zalandoresearch/fashion-mnist>, MIT
//! licence) has grey pictures of 28×28 pixels in ten classes. The Debian package `dataset-fashion-mnist` installs it.

mod idx;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use transdiff_terminal::whole;

use idx::{CLASSES, IdxItems, find};

/// Turns Fashion-MNIST into class folders of PNG files
#[derive(Parser)]
#[command(
    after_help = "Writes OUT/train/CLASS/NUMBER.png from the training file and OUT/held-out/CLASS/NUMBER.png from the test \
file, where NUMBER is the picture's place in the file."
)]
struct Arguments {
    /// Folder for the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder with the four idx files, plain or with the ending .gz
    #[arg(long, value_name = "DIR", default_value = "/usr/share/datasets/fashion-mnist")]
    data: PathBuf,
    /// Number of pictures per class to train on, the first of the training file; at least 1
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = whole(1..=usize::MAX))]
    #[arg(allow_negative_numbers = true)]
    train: usize,
    /// Number of held-out pictures per class, the first of the test file; at least 1
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole(1..=usize::MAX))]
    #[arg(allow_negative_numbers = true)]
    held_out: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let parts = [("train", "train", arguments.train), ("t10k", "held-out", arguments.held_out)];
    for (file, folder, per_class) in parts {
        let folder = arguments.out.join(folder);
        let written = write_part(&arguments.data, file, per_class, &folder)?;
        println!("{}: {written} pictures", folder.display());
    }
    Ok(())
}

/// Writes the first `per_class` pictures of each class of the files that begin with `name`. Returns their number.
fn write_part(data: &Path, name: &str, per_class: usize, out: &Path) -> Result<usize, String> {
    if out.exists() {
        return Err(format!("{}: already exists; remove it, or choose another --out", out.display()));
    }
    let (image_path, label_path) =
        (find(data, &format!("{name}-images-idx3-ubyte")), find(data, &format!("{name}-labels-idx1-ubyte")));
    let (images, labels) = (IdxItems::open(&image_path, 2)?, IdxItems::open(&label_path, 0)?);
    let (count, labelled) = (images.len(), labels.len());
    if count != labelled {
        let path = label_path.display();
        return Err(format!("{path}: expected {count} labels, one per picture, got {labelled}"));
    }
    let chosen = chosen_classes(labels, &label_path, per_class)?;
    for class in CLASSES {
        let folder = out.join(class);
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let size = [images.shape()[0], images.shape()[1]];
    for (number, image) in images.enumerate() {
        let image = image?;
        if let Some(class) = chosen[number] {
            write_png(&out.join(class).join(format!("{number:05}.png")), size, &image)?;
        }
    }
    Ok(chosen.iter().flatten().count())
}

/// Class of each picture that is among the first `per_class` of its class, `None` for the others.
fn chosen_classes(
    labels: IdxItems,
    path: &Path,
    per_class: usize,
) -> Result<Vec<Option<&'static str>>, String> {
    let mut found = [0; CLASSES.len()];
    let mut chosen = Vec::new();
    for label in labels {
        let label = usize::from(label?[0]);
        let Some(&class) = CLASSES.get(label) else {
            let (path, last) = (path.display(), CLASSES.len() - 1);
            return Err(format!("{path}: expected labels from 0 to {last}, got {label}"));
        };
        found[label] += 1;
        chosen.push((found[label] <= per_class).then_some(class));
    }
    match CLASSES.iter().zip(found).find(|&(_, count)| count < per_class) {
        None => Ok(chosen),
        Some((class, count)) => {
            Err(format!("{}: expected at least {per_class} pictures of {class}, got {count}", path.display()))
        }
    }
}

/// Writes a grey picture of `rows` × `columns` pixels.
fn write_png(path: &Path, [rows, columns]: [usize; 2], pixels: &[u8]) -> Result<(), String> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, columns as u32, rows as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let encoded = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(pixels)?;
        writer.finish()
    });
    encoded.map_err(|e| format!("{}: {e}", path.display()))?;
    std::fs::write(path, file).map_err(|e| format!("{}: {e}", path.display()))
}
