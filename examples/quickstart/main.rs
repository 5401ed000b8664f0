//! Trains TransDiff on handwritten digits, generates new ones, and measures how good they are.
//!
//! `cargo run --release --example quickstart -- --help`

mod digits;
mod evaluate;
mod pictures;
mod progress;
mod report;
mod settings;
mod training;

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Parser;
use transdiff::diffusion::Sampling;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant, KeyedNoise, Progress, Timesteps};
use transdiff::models::Model;
use transdiff::models::transdiff::Session;
use transdiff::{Backend, DType, DeviceTask, Tensor, TransDiff};

use digits::{CLASSES, Digits, Image, from_latent, quantized};
use evaluate::Evaluator;
use pictures::{Phase, write_grid, write_loss_curve};
use report::{RealDigits, Report, Seconds, Step, write_samples};
use settings::Settings;
use training::{Trained, Training, latents};

/// Guidances that the report compares; the samples that are kept are of the first.
const GUIDANCES: [f32; 2] = [1.0, 1.3];
/// Columns of `samples.png`.
const COLUMNS: usize = 20;
/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::parse();
    std::fs::create_dir_all(&settings.out)?;
    let device = settings.device.open(settings.threads)?;
    println!("device: {}", device.choice());
    device.run(Quickstart(settings))?
}

/// All of it, on whatever device.
struct Quickstart(Settings);

impl DeviceTask for Quickstart {
    type Output = Result<(), Box<dyn Error>>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Self::Output> {
        Ok(quickstart(&self.0, &backend))
    }
}

fn quickstart<B: Backend>(settings: &Settings, backend: &B) -> Result<(), Box<dyn Error>> {
    let (train, test) = Digits::load()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let Some((phases, model)) = train_phases(settings, backend, &train, &interrupted)? else {
        std::process::exit(INTERRUPTED);
    };
    model.save(settings.out.join("model.safetensors"))?;
    let curves: Vec<Phase<'_>> = phases.iter().map(|(name, p)| Phase { name, losses: &p.losses }).collect();
    write_loss_curve(&settings.out.join("loss.svg"), &curves)?;

    let evaluator = Evaluator::new(&train, &test)?;
    let mut gallery = Gallery::new(settings, &interrupted);
    for (name, trained) in &phases {
        if !gallery.add(name, &trained.model, &evaluator)? {
            println!("\nInterrupted. The model is trained: the same command generates with it.");
            std::process::exit(INTERRUPTED);
        }
    }
    write_samples(&settings.out.join("samples.safetensors"), &gallery.kept, &gallery.labels)?;
    write_grid(&settings.out.join("samples.png"), &gallery.kept, &gallery.labels, COLUMNS)?;
    let report = Report {
        samples: evaluator.quality(&gallery.kept, &gallery.labels)?,
        real_digits: RealDigits::measure(&evaluator, &train, &test)?,
        steps: gallery.steps,
        seconds: Seconds { training: phases.iter().map(|(_, p)| p.seconds).sum(), sampling: gallery.seconds },
        settings,
    };
    report.print();
    report.write(&settings.out.join("report.json"))?;
    println!("Look at {}", settings.out.join("samples.png").display());
    Ok(())
}

type Phases<B> = Vec<(&'static str, Trained<B>)>;
/// The phases of training, and the model that the last one left.
type Outcome<B> = (Phases<B>, TransDiff<B>);

/// The phases of training with their names, and the model that the last one left; `None` if interrupted.
fn train_phases<B: Backend>(
    settings: &Settings,
    backend: &B,
    digits: &Digits,
    interrupted: &AtomicBool,
) -> Result<Option<Outcome<B>>, Box<dyn Error>> {
    let set = latents(digits)?;
    let phase = |name, file: &str| Training { name, checkpoint: settings.out.join(file), interrupted };
    let first = phase("1-step", "checkpoint.safetensors").run(
        backend,
        &set,
        settings.training(),
        settings.fresh,
        || TransDiff::new(backend, &settings::model(), DType::F32, settings.seed),
    )?;
    let Some(first) = first else { return Ok(None) };
    let (mut model, mut phases) = (first.model.clone(), vec![("1-step", first)]);
    if settings.mrar {
        let start = || {
            let (start, new) = model.initialise(&settings::mrar_model(), settings.seed)?;
            println!("MRAR starts from the 1-step weights; new: {}", new.join(", "));
            Ok(start)
        };
        let file = phase("MRAR", "checkpoint-mrar.safetensors");
        let second = file.run(backend, &set, settings.mrar_training(), settings.fresh, start)?;
        let Some(second) = second else { return Ok(None) };
        model = second.model.clone();
        phases.push(("MRAR", second));
    }
    Ok(Some((phases, model)))
}

/// The digits that were generated, and what was measured of them.
struct Gallery<'a> {
    settings: &'a Settings,
    interrupted: &'a AtomicBool,
    labels: Vec<usize>,
    seeds: Vec<u64>,
    steps: Vec<Step>,
    seconds: f64,
    /// Of the last model's last step, at the first guidance.
    kept: Vec<Image>,
}

impl<'a> Gallery<'a> {
    fn new(settings: &'a Settings, interrupted: &'a AtomicBool) -> Self {
        let labels: Vec<usize> = (0..settings.samples).map(|i| i % CLASSES).collect();
        let seeds = (0..settings.samples as u64).map(|i| (settings.seed << 32) + i).collect();
        Self { settings, interrupted, labels, seeds, steps: Vec::new(), seconds: 0.0, kept: Vec::new() }
    }

    /// Generates digits with `model` at every guidance and measures every generation step. Whether it came to its end:
    /// the user may interrupt it.
    fn add<B: Backend>(
        &mut self,
        name: &'static str,
        model: &TransDiff<B>,
        evaluator: &Evaluator,
    ) -> Result<bool, Box<dyn Error>> {
        let timesteps = Timesteps::paper(self.settings.sampling_steps as usize)?;
        let solver = EulerMaruyama::new(timesteps, Interpolant::Linear, 1.0, 1.0)?;
        let mut session = Session::new(model);
        for guidance in GUIDANCES.into_iter().rev() {
            let sampling = Sampling::new(solver, Guidance::new(f64::from(guidance))?);
            let mut noise = KeyedNoise::new(model.backend(), DType::F32, &self.seeds);
            let started = Instant::now();
            let mut watch = |_: &Progress<'_, B>| match self.interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let out = match session.generate(&self.labels, &[], &sampling, &mut noise, &mut watch) {
                Err(transdiff::Error::Cancelled) => return Ok(false),
                out => out?,
            };
            self.seconds += started.elapsed().as_secs_f64();
            for (step, latent) in out.references.iter().chain([&out.codes]).enumerate() {
                self.kept = images(latent)?;
                let quality = evaluator.quality(&self.kept, &self.labels)?;
                self.steps.push(Step { model: name, step, guidance, quality });
            }
        }
        Ok(true)
    }
}

/// The images of latents [N, 4, 4, 4].
fn images<B: Backend>(latents: &Tensor<B>) -> transdiff::Result<Vec<Image>> {
    let values = latents.to_f32()?;
    let (latents, _) = values.as_chunks();
    Ok(latents.iter().map(|latent| quantized(&from_latent(latent))).collect())
}
