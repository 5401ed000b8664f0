//! The paper in miniature: repeats the claims of the TransDiff paper (arXiv 2506.09482) on Fashion-MNIST, with verdicts.
//!
//! `cargo run --release --example paper -- --help`; `docs/evaluation.md` describes the experiments.

mod claims;
mod classifier;
mod estimate;
mod experiments;
mod folder;
mod grids;
#[path = "../fashion/idx.rs"]
mod idx;
mod judge;
mod pictures;
mod plots;
mod report;
mod sampling;
mod scale;
mod settings;
mod statistics;
mod study;
#[cfg(test)]
mod tests;
mod training;
mod units;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use serde::Serialize;
use transdiff::models::patch::PatchCodec;
use transdiff::{Backend, Cpu, Device, DeviceTask};
use transdiff_terminal::{INTERRUPTED, fail_writes_beyond_size_limit, set_on_interrupt};

use experiments::Experiment;
use folder::Folder;
use pictures::Pictures;
use report::RealPictures;
use scale::Scale;
use settings::Arguments;
use study::Study;
use units::{Part, Unit, plan};

fn main() -> ExitCode {
    fail_writes_beyond_size_limit();
    let interrupted = Arc::new(AtomicBool::new(false));
    let installed = set_on_interrupt(&interrupted).map_err(Box::from);
    let result = installed.and_then(|()| run(&Arguments::parse(), &Scale::miniature(), &interrupted));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => INTERRUPTED.into(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the study of `arguments` at `scale`. Returns false if the user interrupted it.
fn run(arguments: &Arguments, scale: &Scale, interrupted: &AtomicBool) -> Result<bool, Box<dyn Error>> {
    let device = arguments.device.open(arguments.threads)?;
    println!("device: {}", device.choice());
    let is_cpu = device.device() == Device::Cpu;
    device.run(Task { arguments, scale, interrupted, is_cpu })?
}

/// The whole program, generic over the backend of the device.
struct Task<'a> {
    arguments: &'a Arguments,
    scale: &'a Scale,
    interrupted: &'a AtomicBool,
    is_cpu: bool,
}

/// Settings that all results of a directory have in common.
#[derive(Serialize)]
struct Settings<'a> {
    scale: &'a Scale,
    /// SHA-256 of the pictures to train on, and of the held-out ones.
    pictures: [String; 2],
    device: &'static str,
}

impl DeviceTask for Task<'_> {
    type Output = Result<bool, Box<dyn Error>>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Self::Output> {
        Ok(self.study(&backend))
    }
}

impl Task<'_> {
    fn study<B: Backend>(&self, backend: &B) -> Result<bool, Box<dyn Error>> {
        let Self { arguments, scale, interrupted, is_cpu } = *self;
        let read = |name| Pictures::read(&arguments.data, name, scale.side());
        let (train, held_out) = (Arc::new(read("train")?), read("t10k")?);
        let settings = Settings {
            scale,
            pictures: [train.digest(), held_out.digest()],
            device: if is_cpu { "cpu" } else { "cuda" },
        };
        let folder = Folder::open(&arguments.out, &settings)?;
        let cpu = Cpu::new(arguments.threads)?;
        let codec = PatchCodec::new(scale.patch, 1)?;
        let study = Study { backend, cpu, folder: &folder, scale, train, held_out, codec, interrupted };
        let units = plan(&arguments.experiments.0, arguments.seeds, scale);
        if units.iter().any(|(_, unit)| !study.is_done(unit)) {
            println!("{}", estimate::table(&study, &units, arguments.seeds)?);
        }
        self.work(&study, &units, &settings)
    }

    /// Works off all units, and writes the report after each seed.
    fn work<B: Backend>(
        &self,
        study: &Study<'_, B>,
        units: &[(Part, Unit)],
        settings: &Settings<'_>,
    ) -> Result<bool, Box<dyn Error>> {
        let experiments: Vec<Experiment> = self.arguments.experiments.0.iter().copied().collect();
        let mut judge = None;
        let mut text = String::new();
        for (index, (_, unit)) in units.iter().enumerate() {
            if !study.work(unit, &mut judge)? {
                println!("\nInterrupted. Run the same command to go on.");
                return Ok(false);
            }
            let next = units.get(index + 1).map(|(_, unit)| unit.seed());
            if unit.seed().is_none() || next == Some(unit.seed()) {
                continue;
            }
            let judge = match &judge {
                Some(judge) => judge,
                None => judge.insert(study.judge()?),
            };
            let real = RealPictures::of(study, judge)?;
            text = report::write(study, &experiments, self.arguments.seeds, settings, real)?;
        }
        println!("\n{text}\nreport: {}", study.folder.path("report.md".as_ref()).display());
        Ok(true)
    }
}
