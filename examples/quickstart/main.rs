//! Trains TransDiff on handwritten digits, generates new ones, and measures their quality.
//!
//! `cargo run --release --example quickstart -- --help`

mod cache;
mod digits;
mod evaluate;
mod plots;
mod report;
mod settings;
mod training;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Parser;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant, KeyedNoise, Progress, Sampling, Timesteps};
use transdiff::models::Model;
use transdiff::models::transdiff::Session;
use transdiff::{Backend, DType, DeviceTask, Tensor, TransDiff};
use transdiff_run::{LossPlot, Point};
use transdiff_terminal::{INTERRUPTED, fail_writes_beyond_size_limit, set_on_interrupt};

use cache::write_cache;
use digits::{CLASSES, Digits, Image, from_latent, quantized};
use evaluate::Evaluator;
use plots::write_grid;
use report::{RealDigits, Report, Seconds, StepQuality, write_samples};
use settings::Settings;
use training::{Trained, Training, latents};

/// Guidance scales in the report; the saved samples use the first.
const GUIDANCE_SCALES: [f32; 2] = [1.0, 1.3];
/// Columns of `samples.png`.
const COLUMNS: usize = 20;

fn main() -> ExitCode {
    fail_writes_beyond_size_limit();
    run(Settings::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn run(settings: Settings) -> Result<ExitCode, Box<dyn Error>> {
    std::fs::create_dir_all(&settings.out).map_err(|e| format!("--out {}: {e}", settings.out.display()))?;
    let device = settings.device.open(settings.threads)?;
    println!("device: {}", device.choice());
    device.run(Quickstart(settings))?
}

/// The whole program, generic over the backend of the device.
struct Quickstart(Settings);

impl DeviceTask for Quickstart {
    type Output = Result<ExitCode, Box<dyn Error>>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Self::Output> {
        Ok(quickstart(&self.0, &backend))
    }
}

fn quickstart<B: Backend>(settings: &Settings, backend: &B) -> Result<ExitCode, Box<dyn Error>> {
    let (train, test) = Digits::load()?;
    write_cache(&settings.out.join("cache"), &train)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    set_on_interrupt(&interrupted)?;
    let Some((phases, model)) = train_phases(settings, backend, &train, &interrupted)? else {
        return Ok(INTERRUPTED.into());
    };
    model.save(settings.out.join("model.safetensors"))?;
    write_loss_plot(&settings.out.join("loss.svg"), &phases)?;

    let evaluator = Evaluator::new(&train, &test)?;
    let mut samples = Samples::new(settings, &interrupted);
    for (name, trained) in &phases {
        if !samples.generate(name, &trained.model, &evaluator)? {
            println!("\nInterrupted. Training is complete; run the same command to generate.");
            return Ok(INTERRUPTED.into());
        }
    }
    write_samples(&settings.out.join("samples.safetensors"), &samples.images, &samples.labels)?;
    write_grid(&settings.out.join("samples.png"), &samples.images, &samples.labels, COLUMNS)?;
    let report = Report {
        samples: evaluator.quality(&samples.images, &samples.labels)?,
        real_digits: RealDigits::measure(&evaluator, &train, &test)?,
        steps: samples.steps,
        seconds: Seconds { training: phases.iter().map(|(_, p)| p.seconds).sum(), sampling: samples.seconds },
        settings,
    };
    report.print();
    report.write(&settings.out.join("report.json"))?;
    println!("samples: {}", settings.out.join("samples.png").display());
    println!("cache for transdiff train: {}", settings.out.join("cache").display());
    Ok(ExitCode::SUCCESS)
}

type Phases<B> = Vec<(&'static str, Trained<B>)>;
/// The phases of training and the final model.
type TrainedPhases<B> = (Phases<B>, TransDiff<B>);

/// Runs the phases of training; returns them by name with the final model, or `None` if interrupted.
fn train_phases<B: Backend>(
    settings: &Settings,
    backend: &B,
    digits: &Digits,
    interrupted: &AtomicBool,
) -> Result<Option<TrainedPhases<B>>, Box<dyn Error>> {
    let set = latents(digits)?;
    let phase = |name, file: &str| Training { name, checkpoint: settings.out.join(file), interrupted };
    let first = phase("1-step", "checkpoint.safetensors").run(
        backend,
        set.clone(),
        settings.training(),
        settings.fresh,
        || TransDiff::new(backend, &settings::model(), DType::F32, settings.seed),
    )?;
    let Some(first) = first else { return Ok(None) };
    let (mut model, mut phases) = (first.model.clone(), vec![("1-step", first)]);
    if settings.mrar {
        let start = || {
            let (start, new) = model.initialise(&settings::mrar_model(), settings.seed)?;
            println!("MRAR: initialised from the 1-step weights; new tensors: {}", new.join(", "));
            Ok(start)
        };
        let file = phase("MRAR", "checkpoint-mrar.safetensors");
        let second = file.run(backend, set, settings.mrar_training(), settings.fresh, start)?;
        let Some(second) = second else { return Ok(None) };
        model = second.model.clone();
        phases.push(("MRAR", second));
    }
    Ok(Some((phases, model)))
}

/// Plots the losses of the phases one after the other.
fn write_loss_plot<B: Backend>(path: &Path, phases: &Phases<B>) -> transdiff::Result<()> {
    let mut plot = LossPlot::default();
    for (name, trained) in phases {
        let losses = (1..).zip(&trained.losses);
        plot.add_phase(name, losses.map(|(step, &loss)| Point { step, loss: loss.into() }), []);
    }
    plot.write(path)
}

/// Generated digits and their quality.
struct Samples<'a> {
    settings: &'a Settings,
    interrupted: &'a AtomicBool,
    labels: Vec<usize>,
    seeds: Vec<u64>,
    steps: Vec<StepQuality>,
    seconds: f64,
    /// Images of the last model's final AR step at the first guidance scale.
    images: Vec<Image>,
}

impl<'a> Samples<'a> {
    fn new(settings: &'a Settings, interrupted: &'a AtomicBool) -> Self {
        let labels: Vec<usize> = (0..settings.samples).map(|i| i % CLASSES).collect();
        let seed = settings.sampling_seed.unwrap_or(settings.seed);
        let seeds = (0..settings.samples as u64).map(|i| (seed << 32) + i).collect();
        Self { settings, interrupted, labels, seeds, steps: Vec::new(), seconds: 0.0, images: Vec::new() }
    }

    /// Generates digits with `model` at every guidance scale and measures every AR step. Returns false if the user
    /// interrupted it.
    fn generate<B: Backend>(
        &mut self,
        name: &'static str,
        model: &TransDiff<B>,
        evaluator: &Evaluator,
    ) -> Result<bool, Box<dyn Error>> {
        let timesteps = Timesteps::paper(self.settings.sampling_steps)?;
        let solver = EulerMaruyama::new(timesteps, Interpolant::Linear, 1.0, 1.0)?;
        let model = model.to_precision(self.settings.dtype)?;
        let mut session = Session::new(&model);
        for guidance in GUIDANCE_SCALES.into_iter().rev() {
            let sampling = Sampling::new(solver.clone(), Guidance::new(f64::from(guidance))?);
            let mut noise = KeyedNoise::new(model.backend(), DType::F32, &self.seeds);
            let started = Instant::now();
            let mut observer = |_: &Progress<'_, B>| match self.interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let out = match session.generate(&self.labels, &[], &sampling, &mut noise, &mut observer) {
                Err(transdiff::Error::Cancelled) => return Ok(false),
                out => out?,
            };
            self.seconds += started.elapsed().as_secs_f64();
            for (step, latent) in out.references.iter().chain([&out.codes]).enumerate() {
                self.images = to_images(latent)?;
                let quality = evaluator.quality(&self.images, &self.labels)?;
                self.steps.push(StepQuality { model: name, step, guidance, quality });
            }
        }
        Ok(true)
    }
}

/// Images of latents [N, 4, 4, 4].
fn to_images<B: Backend>(latents: &Tensor<B>) -> transdiff::Result<Vec<Image>> {
    let values = latents.to_f32()?;
    let (latents, _) = values.as_chunks();
    Ok(latents.iter().map(|latent| quantized(&from_latent(latent))).collect())
}
