//! `transdiff train`: trains on a folder of pictures or a latent cache.

mod args;
mod checkpoints;
mod data;
mod estimate;
mod reports;
mod run;
mod samples;

use std::path::Path;

use transdiff::Device;
use transdiff::datasets::cache::HEADER_FILE;
use transdiff_run::RunDirectory;
use transdiff_run::settings::RunConfig;
use transdiff_terminal::StopSignals;

pub use args::TrainArgs;
use data::TrainingData;
pub use data::{check_apart, keep_codec};
use run::Run;

use crate::failure::{Failure, Result};
use crate::output::{print, print_to_stderr};

pub fn run(args: &TrainArgs) -> Result<()> {
    // Before the data is read, which may take minutes: a signal then ends the process, and nothing is lost.
    let settings = args.resolved()?;
    let data = TrainingData::open(&settings, args.resume.as_deref())?;
    let settings = settings.complete(&data.facts)?;
    if args.dry_run {
        return print(settings.to_document());
    }
    let device = args.device.open(args.threads)?;
    let gpu = device.device() != Device::Cpu;
    let train = settings.train_config(data.samples_per_epoch(), 1, gpu)?;
    if args.estimate {
        return estimate::print_estimate(&settings.transdiff_config()?, &train, &data, device);
    }
    let signals = StopSignals::install().map_err(|e| format!("cannot handle signals: {e}"))?;
    let directory = directory(args, &settings, &data)?;
    print_to_stderr(&format!("device: {}", device.choice()));
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let path = directory.path().to_owned();
    let run = Run { settings, data, directory, train, signals, threads };
    let resume = format!("go on with transdiff train --resume {}", path.display());
    device.run(run)?.map_err(|failure| match failure {
        Failure::Stopped(reason, message) => Failure::Stopped(reason, format!("{message}; {resume}")),
        other => other,
    })?;
    print(format!("{}\n", path.join("model.safetensors").display()))
}

/// The run's directory, with the codec's file.
fn directory(args: &TrainArgs, settings: &RunConfig, data: &TrainingData) -> Result<RunDirectory> {
    let directory = match (&args.resume, &args.out) {
        (Some(path), _) => RunDirectory::resume(path)?,
        (None, Some(path)) => {
            let data = settings.data.path.as_deref().unwrap_or_default();
            check_apart(path, Path::new(data), HEADER_FILE)?;
            RunDirectory::create(path)?
        }
        (None, None) => {
            return Err("--out: required unless --resume is given, got nothing".to_owned().into());
        }
    };
    if let Some(codec) = &data.codec {
        keep_codec(codec, directory.path())?;
    }
    Ok(directory)
}
