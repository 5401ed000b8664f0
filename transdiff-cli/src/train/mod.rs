//! `transdiff train` and `transdiff distill`: trains on a folder of pictures or a latent cache.

mod args;
mod beginning;
mod checkpoints;
mod data;
mod estimate;
mod identity;
mod main_rank;
mod plan;
mod reports;
mod run;
mod run_model;
mod samples;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use transdiff::datasets::cache::HEADER_FILE;
use transdiff::{Device, Error};
use transdiff_run::settings::RunConfig;
use transdiff_run::{CONFIG_FILE, RunDirectory};
use transdiff_terminal::StopSignals;

pub use args::{DistillArgs, TrainArgs};
pub use data::{check_apart, keep_codec};

use args::{RunArgs, RunSettings};
use data::TrainingData;
use identity::Identity;
use plan::Plan;
use run::Run;

use crate::failure::{Failure, Result};
use crate::job::Job;
use crate::output::{log_aside, print, print_to_stderr};

/// Directory of the messages of ranks other than 0, in that of the run.
const LOGS: &str = "logs";

/// Runs `transdiff train`.
pub fn run(args: &TrainArgs) -> Result<()> {
    start(&args.run, || Ok(args.settings()))
}

/// Runs `transdiff distill`.
pub fn distill(args: &DistillArgs) -> Result<()> {
    start(&args.run, || Ok(args.settings()?))
}

fn start<'a>(args: &RunArgs, settings: impl Fn() -> Result<RunSettings<'a>>) -> Result<()> {
    Job::of_training(&args.job, args.device)?.run(|job| {
        let settings = job.each(&settings)?;
        train(&settings, job)
    })
}

/// Trains as one rank of `job`.
fn train(given: &RunSettings<'_>, job: &Job) -> Result<()> {
    let args = given.args;
    let ranks = args.ranks.unwrap_or(job.size());
    // Before the data is read, which may take minutes: a signal then ends the process, and nothing is lost.
    let (settings, data) = job.each(|| {
        let settings = given.resolved()?;
        let data = TrainingData::open(&settings, args.resume.as_deref())?;
        let passes = given.given(&settings)?;
        let settings = settings.complete(&data.facts)?.on_ranks(ranks, passes)?;
        given.print_changes(&settings)?;
        Ok((settings, data))
    })?;
    if args.dry_run {
        return print(settings.to_document());
    }
    let threads = job.threads(args.threads);
    let (device, train) = job.each(|| {
        let device = args.device.of_rank(&**job.communicator())?.open(threads)?;
        let gpu = device.device() != Device::Cpu;
        Ok((device, settings.train_config(data.samples_per_epoch(), ranks, gpu)?))
    })?;
    if args.estimate {
        let ranks = [ranks, if args.shard.is_some() { ranks } else { 1 }];
        return estimate::print_estimate(&settings, &train, &data, device, ranks);
    }
    if job.size() > 1 {
        Identity::check_equal(Identity::of(args, &settings, &data, &device), job)?;
    }
    let signals = StopSignals::install().map_err(|e| format!("cannot handle signals: {e}"))?;
    let mut own = None;
    let path = job.made_by_main(|| {
        let directory = directory(args, &settings, &data)?;
        let path = directory.path().to_owned();
        if job.size() > 1 {
            let logs = path.join(LOGS);
            fs::create_dir_all(&logs).map_err(Error::io(&logs))?;
        }
        own = Some(directory);
        Ok(path)
    })?;
    // The directory may be on another machine, out of sight: then there is no place for this rank's messages.
    let logs = path.join(LOGS);
    if !job.is_main() && logs.is_dir() {
        log_aside(&logs.join(format!("rank-{}.log", job.rank())))?;
    }
    print_to_stderr(&format!("device: {}", device.choice()));
    if job.size() > 1 {
        let (ranks, batch, passes) = (job.size(), train.batch, train.accumulate);
        let passes = if passes == 1 { "1 pass".to_owned() } else { format!("{passes} passes") };
        print_to_stderr(&format!("{ranks} ranks with {passes} of {batch} samples per step each"));
    }
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let shard_optimizer = args.shard.is_some();
    let plan = Plan { job, settings, data, path: path.clone(), directory: own, train, shard_optimizer };
    let run = Run { plan, signals, threads };
    let resume = format!("go on with transdiff {} --resume {}", given.command, path.display());
    device.run_distributed(Arc::clone(job.communicator()), job.timeout, run)?.map_err(
        |failure| match failure {
            Failure::Stopped(reason, message) => Failure::Stopped(reason, format!("{message}; {resume}")),
            // One that the other ranks do not know of, such as the silence of a rank.
            failure @ Failure::Message(_) if job.size() > 1 && path.join(CONFIG_FILE).is_file() => {
                failure.with_completed(&resume)
            }
            other => other,
        },
    )?;
    print(format!("{}\n", path.join("model.safetensors").display()))
}

/// The run's directory, with the codec's file.
fn directory(args: &RunArgs, settings: &RunConfig, data: &TrainingData) -> Result<RunDirectory> {
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
