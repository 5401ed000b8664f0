//! Evaluation of a model: generation in parts, and their completion.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use transdiff::checkpoint::WeightFile;
use transdiff::datasets::cache::Part;
use transdiff::diffusion::Sampling;
use transdiff::models::{CodecFile, CodecSource, StoredModel, WeightSet};
use transdiff::pipeline::{LoadOptions, Pipeline};
use transdiff::{CancellationToken, Cpu, Device, Error};

use super::args::EvaluateArgs;
use super::directory::Directory;
use super::events;
use super::generation::Generation;
use super::machine::Machine;
use super::manifest::{Figures, Manifest};
use super::measuring::{print_figures, warn_of_few};
use super::preset::{Preset, Reference};
use super::reference::Source;
use super::settings::{Generated, Images, InputRecord, Settings};
use crate::failure::{Failure, Result};
use crate::job::Job;
use crate::load_hints::{LoadHintArgs, WeightSetArg};
use crate::output::{log_aside, print, print_to_stderr};

/// Folder of the messages of ranks other than 0, in the directory of the evaluation.
const LOGS: &str = "logs";

/// Settings of the images of the model at `path`.
pub fn settings(args: &EvaluateArgs, path: &Path) -> Result<Generated> {
    let file = WeightFile::open(path)?;
    let stored = args.hints.find_model(&file)?;
    let codec = open_codec(args.codec.as_ref(), &file, &stored)?;
    let codec_path = match &args.codec {
        Some(CodecSource::File(path)) => Some(InputRecord::of(path)?.path),
        _ => None,
    };
    let info = stored.info();
    args.sampling.build(&info)?;
    let weights = match stored.weights() {
        WeightSet::Ema => Some(WeightSetArg::Ema),
        WeightSet::Raw => Some(WeightSetArg::Raw),
        WeightSet::Single => args.hints.weights,
    };
    let mut generated = Generated {
        model: InputRecord { path: path.to_owned(), sha256: String::new() },
        hints: LoadHintArgs { weights, ..args.hints.clone() },
        codec: codec.record()?,
        codec_path,
        total: args.total.ok_or_else(|| "--total: required with --model, got nothing".to_owned())?,
        classes: info.classes,
        seed: args.seed,
        sampling: args.sampling.complete(&info)?,
        dtype: args.dtype,
    };
    generated.check()?;
    // Last, because it reads the whole file.
    generated.model = InputRecord::of_model(&file)?;
    Ok(generated)
}

/// Checks that model and codec of a manifest are still the same.
pub fn check_inputs(generated: &Generated) -> Result<()> {
    generated.check()?;
    let file = WeightFile::open(&generated.model.path)?;
    generated.model.check(&InputRecord::of_model(&file)?)?;
    let stored = generated.hints.find_model(&file)?;
    let codec = open_codec(generated.codec_source().as_ref(), &file, &stored)?.record()?;
    let (classes, recorded) = (stored.info().classes, generated.classes);
    if classes != recorded {
        return Err(format!("classes: expected the model's {classes}, got {recorded}").into());
    }
    match codec == generated.codec {
        true => Ok(()),
        false => {
            let (expected, got) = (text(&generated.codec), text(&codec));
            Err(format!("codec: expected that of the manifest, {expected}, got {got}").into())
        }
    }
}

fn text(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).expect("plain data")
}

/// Opens the codec that is given, or else the one that the model's file describes.
fn open_codec(given: Option<&CodecSource>, file: &WeightFile, model: &StoredModel<'_>) -> Result<CodecFile> {
    match given {
        Some(source) => Ok(source.open_for_codes(model.info().code_shape[0])?),
        None => CodecFile::described(file, model)?.ok_or_else(|| {
            let name = file.path().display();
            Failure::Message(format!("{name}: describes no codec; add --codec CODEC, which decodes images"))
        }),
    }
}

/// Generates and measures the images of a part, that of this rank of `job` if there are several. Goes on with what an earlier
/// run of the same command has done. Returns the figures once all parts are done: on rank 0 alone.
pub fn evaluate(
    args: &EvaluateArgs,
    settings: Settings<Generated>,
    out: &Path,
    job: &Job,
    token: &CancellationToken,
) -> Result<Option<Figures>> {
    let part = match args.part {
        Some(_) if job.size() > 1 => {
            let message = format!("--part: expected none, which {} ranks share, got one", job.size());
            return Err(job.known_to_all(message));
        }
        Some(part) => part,
        None if job.size() > 1 => Part::new(job.rank(), job.size())?,
        None => Part::from_environment(|name| std::env::var(name).ok())?.unwrap_or(Part::WHOLE),
    };
    check_equal(&settings, out, job)?;
    // A failure ends the job before images are made; after that, the job goes on with the shards that are finished.
    let prepared = job.each(|| Prepared::new(args, settings, out, part, job, token))?;
    if !job.is_main() {
        let logs = out.join(LOGS);
        fs::create_dir_all(&logs).map_err(Error::io(&logs))?;
        log_aside(&logs.join(format!("rank-{}.log", job.rank())))?;
    }
    prepared.generate(args, part, token)?;
    let directory = prepared.directory;
    if job.size() > 1 {
        job.communicator().barrier()?;
        return job.is_main().then(|| finish(args, &directory, token)).transpose();
    }
    if part == Part::WHOLE {
        return finish(args, &directory, token).map(Some);
    }
    let out = out.display();
    print(format!("part {part} is done; when all parts are: transdiff evaluate --merge {out}\n"))?;
    Ok(None)
}

/// Fails, on all ranks alike, if a rank evaluates something else, or elsewhere, than rank 0.
fn check_equal(settings: &Settings<Generated>, out: &Path, job: &Job) -> Result<()> {
    if job.size() == 1 {
        return Ok(());
    }
    let out = std::path::absolute(out).map_err(Error::io(out))?;
    let all = job.agree(Ok((text(settings), out)))?;
    match all.iter().position(|rank| *rank != all[0]) {
        Some(rank) => {
            let message = format!("rank {rank}: other arguments, or other files, than those of rank 0");
            Err(job.known_to_all(message))
        }
        None => Ok(()),
    }
}

/// Everything that the images of an evaluation are made with.
struct Prepared {
    directory: Directory,
    pipeline: Pipeline,
    sampling: Sampling,
    cpu: Cpu,
    device: Device,
    threads: Option<usize>,
    machine: Machine,
}

impl Prepared {
    /// Opens the reference, the model, the codec and the network: before the first image, and not after the last.
    fn new(
        args: &EvaluateArgs,
        settings: Settings<Generated>,
        out: &Path,
        part: Part,
        job: &Job,
        token: &CancellationToken,
    ) -> Result<Self> {
        let source = Source::open(&settings.reference.path, settings.preset)?;
        Preset::check_count("--total", settings.images.total, source.has_pictures())?;
        let (device, threads) = (args.device.of_rank(&**job.communicator())?, job.threads(args.threads));
        let file = WeightFile::open(&settings.images.model.path)?;
        let stored = settings.images.hints.find_model(&file)?;
        let codec = open_codec(settings.images.codec_source().as_ref(), &file, &stored)?;
        let sampling = settings.images.sampling.build(&stored.info())?;
        let options = LoadOptions {
            device,
            precision: settings.images.dtype.into(),
            threads,
            hints: (&settings.images.hints).into(),
            latents_only: false,
        };
        let mut log = |_, message: &str| print_to_stderr(message);
        let pipeline = Pipeline::load(&file, Some(&codec), &options, &mut log)?;
        let cpu = Cpu::new(threads)?;
        let found = Directory::find(out, &settings)?;
        let known = found.as_ref().map(Directory::read_reference).transpose()?.flatten().is_some();
        // Parts share the reference: the one with the first image measures it. Nothing is left if it cannot be read.
        let first = part.shards(1).next().is_some();
        let reference =
            (first && !known).then(|| measure_reference(args, &settings, &cpu, token)).transpose()?;
        let directory = match found {
            Some(directory) => directory,
            None => Directory::begin(out, settings)?,
        };
        let machine = Machine::current(args)?;
        if let Some(reference) = &reference {
            let _lock = directory.lock()?;
            directory.write_reference(reference)?;
        }
        Ok(Self { directory, pipeline, sampling, cpu, device, threads, machine })
    }

    /// Generates and measures the images of `part`.
    fn generate(&self, args: &EvaluateArgs, part: Part, token: &CancellationToken) -> Result<()> {
        let _lock = self.directory.lock()?;
        let keep = !args.discard;
        if keep {
            self.directory.create_images()?;
        }
        let generation = Generation {
            directory: &self.directory,
            pipeline: &self.pipeline,
            sampling: self.sampling.clone(),
            part,
            batch: NonZeroUsize::new(args.batch).expect("the argument is at least 1"),
            machine: self.machine.clone(),
            keep,
            cpu: &self.cpu,
            token,
        };
        self.device.run(self.threads, generation)?.map_err(interrupted)
    }
}

/// Completes an evaluation whose parts are done.
pub fn merge(args: &EvaluateArgs, directory: &Path, token: &CancellationToken) -> Result<()> {
    finish(args, &Directory::read(directory)?, token).map(drop)
}

/// Compares the images with the reference, and writes the manifest.
fn finish(args: &EvaluateArgs, directory: &Directory, token: &CancellationToken) -> Result<Figures> {
    let settings = &directory.settings;
    let results = directory.results()?;
    warn_of_few(results.measured.features.len());
    let cpu = Cpu::new(args.threads)?;
    let reference = match directory.read_reference()? {
        Some(reference) => reference,
        None => measure_reference(args, settings, &cpu, token)?,
    };
    let quality = settings.preset.quality(&cpu, &results.measured, &reference)?;
    let figures = Figures::new(&quality, &results);
    let images = Images::Generated(Box::new(settings.images.clone()));
    let manifest = Manifest::new(settings.clone().with_images(images), results.machines, figures);
    manifest.write(directory.path())?;
    events::write(directory.path(), &settings.images, &manifest.figures)?;
    print_figures(&manifest.figures, Some(directory.path()))?;
    Ok(manifest.figures)
}

fn measure_reference(
    args: &EvaluateArgs,
    settings: &Settings<Generated>,
    cpu: &Cpu,
    token: &CancellationToken,
) -> Result<Reference> {
    let source = Source::open(&settings.reference.path, settings.preset)?;
    let measured = args.measure(token, cpu, &settings.inception.path, None, Some(source));
    Ok(measured.map_err(interrupted)?.1.expect("it was given"))
}

/// Says what an interruption leaves.
fn interrupted(failure: Failure) -> Failure {
    match failure {
        Failure::Interrupted(_) => {
            Failure::Interrupted("finished shards are kept; run the command again to go on".to_owned())
        }
        other => other,
    }
}
