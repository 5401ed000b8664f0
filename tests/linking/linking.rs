//! Tool of `cargo xtask ffi`: writes a small model with a VAE, and classifies generated digits.

#[path = "../../examples/quickstart/digits.rs"]
#[allow(dead_code)]
mod digits;
#[path = "../../examples/quickstart/evaluate.rs"]
#[allow(dead_code)]
mod evaluate;

use std::error::Error;
use std::fs::{File, create_dir_all};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Parser;
use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::models::vae::{Vae, VaeConfig};
use transdiff::models::{CodecRecord, ImageSpec, Model};
use transdiff::nn::Module;
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Cpu, DType, HostTensor, TransDiff};

use digits::{CLASSES, Digits, Image, PIXELS, SIDE, WHITE};
use evaluate::Evaluator;

/// Writes small models and classifies digits
#[derive(Parser)]
enum Command {
    /// Writes model.safetensors and vae.safetensors with random weights, for images of 16 × 16 pixels, student.safetensors, a
    /// distilled model, and described.safetensors, whose file describes grey images of 8 × 8 pixels
    Small { folder: PathBuf },
    /// Prints the fraction of digits in a PNG that are recognised; digit i should be i % 10
    Recognise { picture: PathBuf },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Command::parse() {
        Command::Small { folder } => write_small(&folder),
        Command::Recognise { picture } => {
            println!("{}", recognised(&read_digits(&picture)?)?);
            Ok(())
        }
    }
}

fn write_small(folder: &Path) -> Result<(), Box<dyn Error>> {
    let config = TransDiffConfig {
        width: 16,
        heads: 2,
        encoder_blocks: 1,
        decoder_blocks: 1,
        mlp_ratio: 2,
        classes: 3,
        buffer_size: 2,
        feature_tokens: 8,
        latent_channels: 16,
        latent_size: 4,
        mode: Mode::MultiReference { groups: 2 },
        distilled: false,
    };
    let vae =
        VaeConfig { channels: 32, multipliers: vec![1; 3], attention: vec![2], ..VaeConfig::published() };
    let backend = Cpu::new(None)?;
    create_dir_all(folder)?;
    model(&backend, &config)?.save(folder.join("model.safetensors"))?;
    Vae::new(&backend, &vae, DType::F32, 3)?.save(folder.join("vae.safetensors"))?;
    let student = TransDiffConfig { distilled: true, ..config.clone() };
    model(&backend, &student)?.save(folder.join("student.safetensors"))?;
    let config = TransDiffConfig { feature_tokens: 16, latent_channels: 4, mode: Mode::OneStep, ..config };
    let classes = ["trouser", "Ankle boot", "bag"].map(String::from).to_vec();
    let images = ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 8, classes };
    Ok(model(&backend, &config)?.save_with(folder.join("described.safetensors"), &images.metadata())?)
}

/// A model with random weights in every layer.
fn model(backend: &Cpu, config: &TransDiffConfig) -> Result<TransDiff<Cpu>, Box<dyn Error>> {
    let mut model = TransDiff::new(backend, config, DType::F32, 1)?;
    // The final layer of a new model is zero, so that every image would equal its initial noise.
    for (index, (_, param)) in model.params_mut().into_iter().enumerate() {
        let shape = param.value().shape().to_vec();
        let mut stream = StreamKey::new(2, Purpose::Initialisation, index as u32, 0).stream();
        let before = param.value().to_f32()?;
        let values = before.into_iter().map(|x| x + 0.1 * stream.normal() as f32).collect();
        param.set_host(HostTensor::f32(&shape, values)?)?;
    }
    Ok(model)
}

/// Reads the digits of a PNG, row by row, in the pixel values of the dataset.
fn read_digits(path: &Path) -> Result<Vec<Image>, Box<dyn Error>> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("the PNG is too large for memory")?];
    let frame = reader.next_frame(&mut pixels)?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    if frame.line_size != width || !width.is_multiple_of(SIDE) || !height.is_multiple_of(SIDE) {
        return Err(format!("expected digits of {SIDE} × {SIDE} grey pixels, got {frame:?}").into());
    }
    let across = width / SIDE;
    let digit = |i: usize| -> Image {
        std::array::from_fn(|pixel| {
            let (y, x) = (i / across * SIDE + pixel / SIDE, i % across * SIDE + pixel % SIDE);
            (f32::from(pixels[y * width + x]) / 255.0 * WHITE).round_ties_even()
        })
    };
    Ok((0..width * height / PIXELS).map(digit).collect())
}

fn recognised(images: &[Image]) -> Result<f64, Box<dyn Error>> {
    let (train, test) = Digits::load()?;
    let labels: Vec<usize> = (0..images.len()).map(|i| i % CLASSES).collect();
    Ok(Evaluator::new(&train, &test)?.quality(images, &labels)?.accuracy)
}
