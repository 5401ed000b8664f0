//! `transdiff evaluate`: measures the quality of images.

mod args;
mod directory;
mod events;
mod generation;
mod machine;
mod manifest;
mod measuring;
mod model;
mod network;
mod preset;
mod progress;
mod reference;
mod settings;

use std::fs;
use std::path::Path;

use transdiff::checkpoint::write_bytes_atomic;
use transdiff::data::Dataset;
use transdiff::datasets::npz::npz_bytes;
use transdiff::datasets::pictures::PictureFiles;
use transdiff::metrics::Statistics;
use transdiff::{CancellationToken, Cpu, Error};

pub use args::EvaluateArgs;
use directory::Results;
use machine::Machine;
use manifest::{Figures, Manifest};
use measuring::{print_figures, warn_of_few};
use preset::Preset;
use reference::{STATISTICS, Source};
use settings::{Images, InputRecord, Settings};

use crate::failure::Result;
use crate::interrupt::cancellation_token;
use crate::job::Job;
use crate::output::{check_destination, print};

/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn run(args: &EvaluateArgs) -> Result<()> {
    Job::of_evaluation(&args.job, args.device, args.part.is_none() && args.merge.is_none())?
        .run(|job| evaluate(args, job))
}

/// Does the part of this rank of `job`.
fn evaluate(args: &EvaluateArgs, job: &Job) -> Result<()> {
    let token = cancellation_token()?;
    if let Some(model) = &args.model {
        let settings = job.each(|| args.settings(model::settings(args, model)?))?;
        return model::evaluate(args, settings, args.required_out()?, job, &token).map(drop);
    }
    if let Some(manifest) = &args.again {
        return repeat(args, manifest, job, &token);
    }
    if job.size() > 1 {
        let message = format!("expected a single process without --model or --again, got {}", job.size());
        return Err(job.known_to_all(message));
    }
    if let Some(directory) = &args.merge {
        return model::merge(args, directory, &token);
    }
    match (&args.images, &args.statistics) {
        (Some(images), _) => compare(args, images, &token),
        (_, Some(pictures)) => write_statistics(args, pictures, &token),
        _ => unreachable!("one of the arguments is required"),
    }
}

/// Compares a folder of pictures with the reference.
fn compare(args: &EvaluateArgs, images: &Path, token: &CancellationToken) -> Result<()> {
    let recorded = match &args.out {
        Some(out) => {
            check_destination(&Manifest::path(out), args.force)?;
            fs::create_dir_all(out).map_err(Error::io(out))?;
            Some((args.settings(Images::Folder(InputRecord::of(images)?))?, out.as_path()))
        }
        None => None,
    };
    let (inception, reference) = (args.required_inception()?, args.required_reference()?);
    let figures = figures_of_folder(args, [images, inception, reference], args.preset, token)?;
    if let Some((settings, out)) = recorded {
        write_manifest(args, settings, &figures, out)?;
    }
    print_figures(&figures, args.out.as_deref())
}

/// Repeats the evaluation of a manifest, and compares the figures.
fn repeat(args: &EvaluateArgs, path: &Path, job: &Job, token: &CancellationToken) -> Result<()> {
    let manifest = Manifest::read(path)?;
    let out = args.required_out()?;
    if same_folder(out, path.parent().unwrap_or(Path::new(""))) {
        let (name, path) = (out.display(), path.display());
        return Err(
            format!("--out {name}: has the results of {path} itself; choose another directory").into()
        );
    }
    let settings = Settings { version: VERSION.to_owned(), ..manifest.settings };
    for input in [&settings.inception, &settings.reference] {
        input.check(&InputRecord::of(&input.path)?)?;
    }
    let images = settings.images.clone();
    let figures = match images {
        Images::Generated(generated) => {
            model::check_inputs(&generated)?;
            model::evaluate(args, settings.with_images(*generated), out, job, token)?
        }
        Images::Folder(_) if job.size() > 1 => {
            let message = format!("expected a single process for a folder of pictures, got {}", job.size());
            return Err(job.known_to_all(message));
        }
        Images::Folder(folder) => {
            check_destination(&Manifest::path(out), args.force)?;
            folder.check(&InputRecord::of(&folder.path)?)?;
            let paths = [&folder, &settings.inception, &settings.reference].map(|input| input.path.as_path());
            let figures = figures_of_folder(args, paths, settings.preset, token)?;
            write_manifest(args, settings, &figures, out)?;
            print_figures(&figures, Some(out))?;
            Some(figures)
        }
    };
    let Some(figures) = figures else { return Ok(()) };
    match figures.differences(&manifest.figures).as_slice() {
        [] => print("All figures are those of the manifest.\n"),
        differing => {
            Err(format!("{}: other figures than here: {}", path.display(), differing.join("; ")).into())
        }
    }
}

/// Returns whether both paths lead to one folder that exists.
fn same_folder(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, if b == Path::new("") { Path::new(".") } else { b }].map(Path::canonicalize);
    a.ok().zip(b.ok()).is_some_and(|(a, b)| a == b)
}

/// Writes the manifest of a folder.
fn write_manifest(
    args: &EvaluateArgs,
    settings: Settings<Images>,
    figures: &Figures,
    out: &Path,
) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io(out))?;
    Manifest::new(settings, vec![Machine::current(args)?], figures.clone()).write(out)
}

/// Measures a folder of pictures. The paths are those of the folder, the network and the reference.
fn figures_of_folder(
    args: &EvaluateArgs,
    [images, inception, reference]: [&Path; 3],
    preset: Preset,
    token: &CancellationToken,
) -> Result<Figures> {
    let source = Source::open(reference, preset)?;
    Preset::check_count(images.display(), PictureFiles::open(images)?.len(), source.has_pictures())?;
    let cpu = Cpu::new(args.threads)?;
    let (images, reference) = args.measure(token, &cpu, inception, Some(images), Some(source))?;
    let (images, reference) = (images.expect("it was given"), reference.expect("it was given"));
    warn_of_few(images.features.len());
    let quality = preset.quality(&cpu, &images, &reference)?;
    let results =
        Results { measured: images, diversity: Vec::new(), timed: Vec::new(), machines: Vec::new() };
    Ok(Figures::new(&quality, &results))
}

/// Writes the statistics of a folder of pictures.
fn write_statistics(args: &EvaluateArgs, pictures: &Path, token: &CancellationToken) -> Result<()> {
    let out = args.required_out()?;
    check_destination(out, args.force)?;
    let folder = out.parent().filter(|folder| *folder != Path::new(""));
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(format!("--out {}: {} is no folder", out.display(), folder.display()).into());
    }
    Preset::check_count(pictures.display(), PictureFiles::open(pictures)?.len(), false)?;
    let cpu = Cpu::new(args.threads)?;
    let (measured, _) = args.measure(token, &cpu, args.required_inception()?, Some(pictures), None)?;
    let features = measured.expect("it was given").features;
    warn_of_few(features.len());
    let statistics = Statistics::of(&cpu, &features)?;
    let dim = statistics.dim();
    let [mean, covariance] = STATISTICS;
    let bytes =
        npz_bytes(&[(mean, &[dim], statistics.mean()), (covariance, &[dim, dim], statistics.covariance())])?;
    write_bytes_atomic(out, &bytes)?;
    print(format!("{}: statistics of {} pictures\n", out.display(), features.len()))
}

impl EvaluateArgs {
    /// Settings of the measurement of `images`.
    fn settings<I>(&self, images: I) -> Result<Settings<I>> {
        Ok(Settings {
            version: VERSION.to_owned(),
            images,
            inception: InputRecord::of(self.required_inception()?)?,
            reference: InputRecord::of(self.required_reference()?)?,
            preset: self.preset,
        })
    }
}
