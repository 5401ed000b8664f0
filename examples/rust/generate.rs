//! Generates images of classes and writes them as a grid to a PNG: the program of the examples in C, C++ and Python on
//! [`Pipeline`], with the same pixels.
//!
//! `cargo run --release --example generate -- model.safetensors --classes 0,1,2 --out grid.png`

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use transdiff::checkpoint::{WeightFile, write_bytes_atomic};
use transdiff::diffusion::Schedule;
use transdiff::models::{CodecSource, LoadHints, StoredModel};
use transdiff::pipeline::{LoadOptions, OutputSelection, Pipeline, PixelFormat, Request, to_pixels};
use transdiff::{CancellationToken, HostTensor};
use transdiff_terminal::{
    INTERRUPTED, MAX_COUNT, fail_writes_beyond_size_limit, number, set_on_interrupt, whole,
};

/// Generates images of classes
#[derive(Parser)]
struct Arguments {
    /// Model file
    model: PathBuf,
    /// Codec: the file of a KL-VAE, patch:N or none [default: the codec that the model file describes]; without one, the
    /// k·k channels of a latent become k·k grey pixels
    #[arg(long, alias = "vae")]
    codec: Option<String>,
    /// Class of each image, by name or number
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4,5,6,7,8,9", allow_hyphen_values = true)]
    classes: Vec<String>,
    /// Seed of each image [default: i for image i]
    #[arg(long, value_delimiter = ',', value_parser = whole(0..=u64::MAX), allow_hyphen_values = true)]
    seeds: Vec<u64>,
    /// Sampling steps per AR step, 1 to 1000000 [default: 100, or 2 for a distilled model]
    #[arg(long, value_name = "N", value_parser = whole(1..=MAX_COUNT), allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Guidance scale; 1 disables guidance [default: the paper's for a published model, otherwise 1]
    #[arg(long, value_name = "G", value_parser = number, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Output file
    #[arg(long, value_name = "FILE", default_value = "grid.png")]
    out: PathBuf,
    /// Images per row
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole(1..=usize::MAX))]
    #[arg(allow_negative_numbers = true)]
    columns: usize,
}

/// Images in bytes, `channels` per pixel, row by row.
struct Images {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    fail_writes_beyond_size_limit();
    let Err(e) = run(&Arguments::parse()) else { return ExitCode::SUCCESS };
    eprintln!("{e}");
    let cancelled = matches!(e.downcast_ref(), Some(transdiff::Error::Cancelled));
    ExitCode::from(if cancelled { INTERRUPTED } else { 1 })
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    set_on_interrupt(&interrupted)?;
    let token = CancellationToken::from(interrupted);
    let images = generate(arguments, &token)?;
    write_grid(&arguments.out, &images, arguments.columns)
}

fn generate(arguments: &Arguments, token: &CancellationToken) -> Result<Images, Box<dyn Error>> {
    let model = WeightFile::open(&arguments.model)?;
    let [code_channels, ..] = StoredModel::find(&model, &LoadHints::default())?.info().code_shape;
    let given = arguments.codec.as_deref();
    let options = LoadOptions { latents_only: given == Some("none"), ..LoadOptions::default() };
    let source = given.filter(|_| !options.latents_only).map(str::parse::<CodecSource>).transpose()?;
    let codec = source.map(|source| source.open_for_codes(code_channels)).transpose()?;
    let pipeline = Pipeline::load(&model, codec.as_ref(), &options, &mut |_, line| eprintln!("{line}"))?;

    let generator = &pipeline.info().generator;
    let mut settings = generator.settings();
    settings.schedule = arguments.steps.map_or(settings.schedule, |steps| Schedule::Steps(vec![steps]));
    settings.guidance = arguments.guidance.map_or(settings.guidance, |scale| vec![scale]);
    let sampling = settings.build(generator.ar_steps)?;
    let seeds = match arguments.seeds.is_empty() {
        true => (0..arguments.classes.len() as u64).collect(),
        false => arguments.seeds.clone(),
    };
    let names = &pipeline.info().class_names;
    let classes = arguments.classes.iter().map(|name| names.find(name)).collect::<transdiff::Result<_>>()?;
    let mut request = Request::new(classes, seeds, sampling);
    request.outputs =
        OutputSelection { images: pipeline.info().codec.is_some(), ..OutputSelection::default() };

    let mut session = pipeline.session();
    session.set_cancellation(token);
    let made = session.generate(&request, &mut |step| {
        eprint!("\r{:3.0} %", 100.0 * step.fraction);
        ControlFlow::Continue(())
    });
    eprintln!();
    let made = made?;
    match made.images {
        Some(images) => to_bytes(&images),
        None => to_grey(&made.latents),
    }
}

/// Converts images [n, c, H, W] to bytes, one per pixel for grey images and three for coloured ones.
fn to_bytes(images: &HostTensor) -> Result<Images, Box<dyn Error>> {
    let &[n, channels, height, width] = images.shape() else { unreachable!("four axes") };
    let mut bytes = vec![0; n * channels * height * width];
    let format = if channels == 1 { PixelFormat::Gray8 } else { PixelFormat::Rgb8Hwc };
    to_pixels(images, format, &mut bytes)?;
    let pixels = bytes.chunks_exact(channels * height * width).map(<[u8]>::to_vec).collect();
    Ok(Images { height, width, channels, pixels })
}

/// Pixel-shuffles latents [n, k·k, h, w] to grey images: channel k·dy + dx holds the pixels (k·y + dy, k·x + dx).
fn to_grey(latents: &HostTensor) -> Result<Images, Box<dyn Error>> {
    let &[_, channels, h, w] = latents.shape() else { unreachable!("four axes") };
    let k = channels.isqrt();
    if k * k != channels {
        return Err("expected a codec (--codec FILE), or latents with 1, 4, 9, 16, … channels".into());
    }
    let (height, width) = (k * h, k * w);
    let image = |latent: &[f32]| {
        let pixel = |i: usize| {
            let (y, x) = (i / width, i % width);
            to_byte(latent[((y % k * k + x % k) * h + y / k) * w + x / k])
        };
        (0..height * width).map(pixel).collect()
    };
    let pixels = latents.to_f32().chunks_exact(channels * h * w).map(image).collect();
    Ok(Images { height, width, channels: 1, pixels })
}

/// Converts a value from −1 (black) to 1 (white) to a byte; ties round to even.
fn to_byte(value: f32) -> u8 {
    ((f64::from(value) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8
}

/// Writes a grid of images with `columns` per row.
fn write_grid(path: &Path, images: &Images, columns: usize) -> Result<(), Box<dyn Error>> {
    let across = columns.min(images.pixels.len());
    let rows = images.pixels.len().div_ceil(across);
    let line = images.width * images.channels;
    let stride = across * line;
    let mut pixels = vec![0; rows * images.height * stride];
    for (i, image) in images.pixels.iter().enumerate() {
        for (y, from) in image.chunks_exact(line).enumerate() {
            let to = (i / across * images.height + y) * stride + i % across * line;
            pixels[to..to + line].copy_from_slice(from);
        }
    }
    let (width, height) = (across * images.width, rows * images.height);
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width.try_into()?, height.try_into()?);
    encoder.set_color(if images.channels == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(write_bytes_atomic(path, &png)?)
}
