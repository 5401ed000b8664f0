//! Error of generation in bf16 and in 8-bit integers: the velocity of a trained model, compared with f32, and the part that
//! each layer has in it.
//!
//! `cargo run --release --example precision -- model.safetensors`

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use transdiff::diffusion::{
    Euler, Guidance, Interpolant, KeyedNoise, NoiseSource, NoopObserver, Sampling, Timesteps,
};
use transdiff::models::Model;
use transdiff::models::transdiff::{Session, TransDiffConfig, latent_tokens};
use transdiff::nn::Module;
use transdiff::{Cpu, DType, Precision, Result, Tensor, TransDiff};

/// Times at which velocities are compared: 0 is the image, 1 is noise.
const TIMES: [f64; 5] = [0.02, 0.25, 0.5, 0.75, 0.98];
/// Steps of the generation that makes the images.
const STEPS: usize = 20;

/// Measures the error of number formats
#[derive(Parser)]
struct Arguments {
    /// Model file
    model: PathBuf,
    /// Number of images, each of another class
    #[arg(long, value_name = "N", default_value_t = 4)]
    images: usize,
    /// Leave out the table of layers, which evaluates the model once for each
    #[arg(long)]
    no_layers: bool,
}

/// Inputs of the comparison: images that the model makes in f32, with noise added.
struct Inputs {
    labels: Vec<usize>,
    references: Vec<Tensor<Cpu>>,
    /// Noisy latents as tokens [n, S, C], one per time.
    noisy: Vec<Tensor<Cpu>>,
}

impl Inputs {
    fn new(model: &TransDiff<Cpu>, images: usize) -> Result<Self> {
        let labels: Vec<usize> = (0..images).map(|i| i % model.config().classes).collect();
        let seeds: Vec<u64> = (0..images as u64).collect();
        let solver = Euler::new(Timesteps::uniform(STEPS)?, Interpolant::Linear);
        let sampling = Sampling::new(solver, Guidance::new(1.0)?);
        let mut noise = KeyedNoise::new(model.backend(), DType::F32, &seeds);
        let made = Session::new(model).generate(&labels, &[], &sampling, &mut noise, &mut NoopObserver)?;
        let (codes, groups) = (latent_tokens(&made.codes)?, model.config().groups());
        let noise = KeyedNoise::new(model.backend(), DType::F32, &seeds).initial(codes.shape())?;
        let mix = |&t: &f64| codes.affine(1.0 - t, 0.0)?.add(&noise.affine(t, 0.0)?);
        let noisy = TIMES.iter().map(mix).collect::<Result<_>>()?;
        Ok(Self { labels, references: made.references.into_iter().take(groups - 1).collect(), noisy })
    }

    /// Velocity at each time.
    fn velocities(&self, model: &TransDiff<Cpu>) -> Result<Vec<Vec<f64>>> {
        let ctx = model.inference();
        let features = model.features(&ctx, &self.labels, &self.references)?;
        let condition = model.condition(&ctx, &features)?;
        let velocity = |(x, t): (&Tensor<Cpu>, &f64)| {
            let time = model.decoder().time(&ctx, &[1000.0 * t])?;
            model.decoder().velocity(&ctx, &x.clone().into(), &time, &condition)?.value().to_f64()
        };
        self.noisy.iter().zip(&TIMES).map(velocity).collect()
    }
}

/// ‖got − want‖ / ‖want‖ in percent.
fn error(got: &[f64], want: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = squares(&mut got.iter().zip(want).map(|(g, w)| g - w));
    100.0 * (difference / squares(&mut want.iter().copied())).sqrt()
}

fn errors(got: &[Vec<f64>], want: &[Vec<f64>]) -> Vec<f64> {
    got.iter().zip(want).map(|(got, want)| error(got, want)).collect()
}

fn print_row(name: &str, errors: &[f64]) {
    let cells: String = errors.iter().map(|error| format!("{error:>9.3}")).collect();
    println!("{name:<52}{cells}");
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let cpu = Cpu::new(None)?;
    let model = TransDiff::load(&cpu, &arguments.model, DType::F32)?;
    let inputs = Inputs::new(&model, arguments.images)?;
    let want = inputs.velocities(&model)?;
    println!("relative error of the velocity in percent, {}", cpu.instruction_set());
    print_row("time", &TIMES);
    for precision in [DType::BF16.into(), Precision::INT8] {
        let got = inputs.velocities(&model.to_precision(precision)?)?;
        print_row(&precision.to_string(), &errors(&got, &want));
    }
    if arguments.no_layers {
        return Ok(());
    }
    println!("\nof a single layer in 8-bit integers, everything else in f32");
    let names = model.params().into_iter().map(|(name, _)| name);
    for name in names.filter(|name| TransDiffConfig::is_quantized(name)) {
        let mut narrow = model.clone();
        for (_, param) in narrow.params_mut().into_iter().filter(|(other, _)| *other == name) {
            let weight = param.value().to_host()?;
            param.quantize();
            param.set_host(weight)?;
        }
        print_row(&name, &errors(&inputs.velocities(&narrow)?, &want));
    }
    Ok(())
}
