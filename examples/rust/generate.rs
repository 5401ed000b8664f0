//! Generates images of classes and writes them, side by side, to a PNG: what the examples in C, C++ and Python do, with
//! [`Pipeline`], and the same pixels.
//!
//! `cargo run --release --example generate -- model.safetensors --classes 0,1,2 --out grid.png`

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Parser;
use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::SamplingSettings;
use transdiff::pipeline::{LoadOptions, OutputSelection, Pipeline, PixelFormat, Request, to_pixels};
use transdiff::{CancellationToken, HostTensor};

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Generates images of classes
#[derive(Parser)]
struct Arguments {
    /// The model's file
    model: PathBuf,
    /// The VAE's; without one, the k·k channels of a latent are k·k grey pixels
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// A class for each image
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4,5,6,7,8,9")]
    classes: Vec<usize>,
    /// A seed for each image (default: i for image i)
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: usize,
    /// Guidance, at least 1, which is none (default: the paper's for a published model, else 1)
    #[arg(long, value_name = "G")]
    guidance: Option<f64>,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "grid.png")]
    out: PathBuf,
    /// Images in a row
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = columns)]
    columns: usize,
}

fn columns(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a positive whole number".into())
}

/// Images of `channels` bytes a pixel, rows of pixels.
struct Pictures {
    height: usize,
    width: usize,
    channels: usize,
    each: Vec<Vec<u8>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let asked = Arguments::parse();
    let cancellation = CancellationToken::new();
    let interrupted = cancellation.clone();
    ctrlc::set_handler(move || interrupted.cancel())?;
    match generate(&asked, &cancellation) {
        Err(e) if matches!(e.downcast_ref(), Some(transdiff::Error::Cancelled)) => {
            eprintln!("\n{e}");
            std::process::exit(INTERRUPTED)
        }
        pictures => write_grid(&asked.out, &pictures?, asked.columns),
    }
}

fn generate(asked: &Arguments, cancellation: &CancellationToken) -> Result<Pictures, Box<dyn Error>> {
    let model = WeightFile::open(&asked.model)?;
    let vae = asked.vae.as_ref().map(WeightFile::open).transpose()?;
    let pipeline =
        Pipeline::load(&model, vae.as_ref(), &LoadOptions::default(), &mut |_, line| eprintln!("{line}"))?;

    let generator = &pipeline.info().generator;
    let mut settings = SamplingSettings::from(generator.preset).with_steps(asked.steps);
    settings.guidance = asked.guidance.map_or(settings.guidance, |scale| vec![scale]);
    let sampling = settings.build(generator.ar_steps)?;
    let seeds = match asked.seeds.is_empty() {
        true => (0..asked.classes.len() as u64).collect(),
        false => asked.seeds.clone(),
    };
    let mut request = Request::new(asked.classes.clone(), seeds, sampling);
    request.outputs = OutputSelection { images: vae.is_some(), ..OutputSelection::default() };

    let mut session = pipeline.session();
    session.set_cancellation(cancellation);
    let made = session.generate(&request, &mut |step| {
        eprint!("\r{:3.0} %", 100.0 * step.fraction);
        ControlFlow::Continue(())
    })?;
    eprintln!();
    match made.images {
        Some(images) => coloured(&images),
        None => unshuffled(&made.latents),
    }
}

/// Images [n, 3, H, W] as bytes.
fn coloured(images: &HostTensor) -> Result<Pictures, Box<dyn Error>> {
    let &[n, channels, height, width] = images.shape() else { unreachable!("four axes") };
    let mut pixels = vec![0; n * channels * height * width];
    to_pixels(images, PixelFormat::Rgb8Hwc, &mut pixels)?;
    let each = pixels.chunks_exact(channels * height * width).map(<[u8]>::to_vec).collect();
    Ok(Pictures { height, width, channels, each })
}

/// The images of latents [n, k·k, h, w]: channel k·dy + dx has the pixels (k·y + dy, k·x + dx).
fn unshuffled(latents: &HostTensor) -> Result<Pictures, Box<dyn Error>> {
    let &[_, channels, h, w] = latents.shape() else { unreachable!("four axes") };
    let k = channels.isqrt();
    if k * k != channels {
        return Err("--vae: without one, a latent has to have 1, 4, 9, 16, … channels".into());
    }
    let (height, width) = (k * h, k * w);
    let picture = |latent: &[f32]| {
        let pixel = |i: usize| {
            let (y, x) = (i / width, i % width);
            grey(latent[((y % k * k + x % k) * h + y / k) * w + x / k])
        };
        (0..height * width).map(pixel).collect()
    };
    let each = latents.to_f32().chunks_exact(channels * h * w).map(picture).collect();
    Ok(Pictures { height, width, channels: 1, each })
}

/// −1 black to 1 white, as a byte: rounded to nearest, halves to even.
fn grey(value: f32) -> u8 {
    ((f64::from(value) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8
}

/// Writes the pictures in rows of `columns`.
fn write_grid(path: &Path, pictures: &Pictures, columns: usize) -> Result<(), Box<dyn Error>> {
    let across = columns.min(pictures.each.len());
    let rows = pictures.each.len().div_ceil(across);
    let line = pictures.width * pictures.channels;
    let stride = across * line;
    let mut pixels = vec![0; rows * pictures.height * stride];
    for (i, picture) in pictures.each.iter().enumerate() {
        for (y, from) in picture.chunks_exact(line).enumerate() {
            let to = (i / across * pictures.height + y) * stride + i % across * line;
            pixels[to..to + line].copy_from_slice(from);
        }
    }
    let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (width, height) = (across * pictures.width, rows * pictures.height);
    let mut encoder = png::Encoder::new(BufWriter::new(file), width.try_into()?, height.try_into()?);
    encoder.set_color(if pictures.channels == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    Ok(encoder.write_header()?.write_image_data(&pixels)?)
}
