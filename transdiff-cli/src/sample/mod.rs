//! `transdiff sample`: generates images of given classes.

mod args;
mod output_writer;
mod plan;
pub mod preview;
mod progress;
mod reference;
mod resume;

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use transdiff::checkpoint::WeightFile;
use transdiff::models::{CodecFile, StoredModel};
use transdiff::pipeline::{LoadOptions, OutputSelection, Pipeline, PipelineSession, Progress, Request};
use transdiff::{Error, HostTensor, Precision};

use crate::failure::{Failure, Result};
use crate::format::{self, Align};
use crate::interrupt;
use crate::output::{print, print_to_stderr};
use crate::product_rate::ProductRate;
use args::CodecArg;
pub use args::SampleArgs;
use output_writer::OutputWriter;
use plan::SamplePlan;
pub use progress::GenerationBar;

/// Side of the matrices whose product is timed: a hundredth of a second on two cores.
const SIDE: usize = 512;

pub fn run(args: &SampleArgs) -> Result<()> {
    let model = WeightFile::open(&args.model)?;
    let stored = args.hints.find_model(&model)?;
    let codec = open_codec(args, &model, &stored)?;
    let plan = SamplePlan::new(args, &stored, codec.as_ref())?;
    if args.estimate {
        return print_estimate(args, &model, &stored, codec.as_ref(), &plan);
    }
    let files = model.paths().chain(codec.iter().flat_map(CodecFile::paths));
    let inputs: Vec<&Path> = files.chain(args.references.iter().map(PathBuf::as_path)).collect();
    let writer = OutputWriter::new(args, &plan, stored.info().code_shape, &inputs)?;
    let pipeline = load(args, &model, codec.as_ref())?;
    print_to_stderr(&plan.to_string());
    // A GPU would be opened twice.
    if pipeline.info().device == "cpu"
        && let Some(seconds) = seconds_per_image(args, &stored, &plan)?
    {
        print_to_stderr(&format!("about {seconds:.2} s per image, by the rate of matrix products"));
    }
    if writer.images() > 0 {
        print_to_stderr(&format!("resuming: {}", writer.summary()));
    }
    writer.create_directories()?;
    // From here on Ctrl-C keeps the images of completed batches. Until now there are none, and it ends the process.
    let token = interrupt::cancellation_token()?;
    let mut session = pipeline.session();
    session.set_cancellation(&token);
    Generation { args, plan: &plan, session, writer }.run()
}

/// Opens the codec that the arguments give, or else the one that the model's file describes.
fn open_codec(
    args: &SampleArgs,
    file: &WeightFile,
    model: &StoredModel<'_>,
) -> transdiff::Result<Option<CodecFile>> {
    match &args.codec {
        Some(CodecArg::None) => Ok(None),
        Some(CodecArg::Source(source)) => source.open_for_codes(model.info().code_shape[0]).map(Some),
        None => CodecFile::described(file, model),
    }
}

fn load(args: &SampleArgs, model: &WeightFile, codec: Option<&CodecFile>) -> Result<Pipeline> {
    let mut log = |_, message: &str| print_to_stderr(message);
    Pipeline::load(model, codec, &args.load_options(), &mut log).map_err(|error| match error {
        Error::DType { expected, got, .. } => unsupported(&expected, got),
        Error::Argument { argument: "precision", expected, got } => unsupported(&expected, got),
        other => other.into(),
    })
}

fn unsupported(expected: &str, got: impl Display) -> Failure {
    format!("--dtype {got}: expected {expected}; f32 is supported by every device").into()
}

/// Prints the estimate of memory, work and time.
fn print_estimate(
    args: &SampleArgs,
    model: &WeightFile,
    stored: &StoredModel<'_>,
    codec: Option<&CodecFile>,
    plan: &SamplePlan,
) -> Result<()> {
    let images = if plan.images.is_empty() { args.batch } else { args.batch.min(plan.images.len()) };
    // The device is opened because `auto` depends on the machine, and the estimate depends on the device.
    let device = args.device.open(args.threads)?;
    let options = LoadOptions { device: device.device(), ..args.load_options() };
    let memory = Pipeline::estimate(model, codec, &options, images)?;
    let rows = [
        ("weights", memory.weights),
        ("temporary, while loading", memory.loading),
        (&*format!("temporary, while generating (batch of {images})"), memory.generation),
        ("peak", memory.weights.saturating_add(memory.loading.max(memory.generation))),
    ]
    .map(|(label, count)| [label.to_owned(), format::bytes(count)]);
    let mut table = format::table([Align::Left, Align::Right], &rows);
    let mut work = vec![
        ("evaluations per image", plan.work.evaluations.to_string()),
        ("network passes per image", plan.work.passes.to_string()),
    ];
    if let Some(seconds) = seconds_per_image(args, stored, plan)? {
        work.push(("seconds per image, by the rate of matrix products", format!("{seconds:.2}")));
    }
    let work: Vec<_> = work.into_iter().map(|(label, value)| [label.to_owned(), value]).collect();
    table += &format::table([Align::Left, Align::Right], &work);
    print(format!("estimate, device {}\n{table}", device.choice()))
}

/// Seconds of an image's generation, decoding aside, if its matrix products and attentions take as long as products of
/// [`SIDE`] × [`SIDE`]. `None` for 8-bit integers, whose products are others.
fn seconds_per_image(args: &SampleArgs, model: &StoredModel<'_>, plan: &SamplePlan) -> Result<Option<f64>> {
    let precision = Precision::from(args.dtype);
    if precision.is_int8() {
        return Ok(None);
    }
    // A file may claim any sizes.
    model.check()?;
    let flops = model.generation_flops(&plan.sampling, plan.references.len())?;
    let device = args.device.open(args.threads)?;
    let rate = device.run(ProductRate { dtype: precision.dtype(), side: SIDE })?;
    Ok(rate.map(|rate| flops as f64 / rate))
}

/// Generation in progress.
struct Generation<'a> {
    args: &'a SampleArgs,
    plan: &'a SamplePlan,
    session: PipelineSession,
    writer: OutputWriter<'a>,
}

impl Generation<'_> {
    /// Generates all images. On failure or Ctrl-C, the images that are complete are kept.
    fn run(mut self) -> Result<()> {
        let started = Instant::now();
        let before = self.writer.images();
        let mut bar = GenerationBar::new(self.plan.images.len(), before);
        let generated = self.generate(&mut bar);
        bar.finish();
        let written = self.writer.finish();
        match (generated, written) {
            (Ok(()), Ok(paths)) => {
                let seconds = started.elapsed().as_secs_f64();
                let count = self.writer.images() - before;
                let rate = count as f64 / seconds;
                let images = if count == 1 { "image" } else { "images" };
                let destination = if paths.is_empty() { paths } else { format!(", written to {paths}") };
                print(format!("{count} {images} in {seconds:.1} s ({rate:.3} images/s){destination}\n"))
            }
            (Err(failure), Ok(_)) | (Ok(()), Err(failure)) => Err(failure.with_completed(&self.completed())),
            // The reason for the failure comes first.
            (Err(failure), Err(second)) => {
                Err(failure.with_completed(&format!("{}; {second}", self.completed())))
            }
        }
    }

    /// Number of complete images, and what to do for the others.
    fn completed(&self) -> String {
        let again = match self.args.force {
            _ if self.writer.images() == 0 => "",
            true => "; run the command again without --force to go on",
            false => "; run the command again to go on",
        };
        self.writer.summary() + again
    }

    fn generate(&mut self, bar: &mut GenerationBar) -> Result<()> {
        let first = self.writer.images();
        let remaining = &self.plan.images[first..];
        if remaining.is_empty() {
            return Ok(());
        }
        let encode = |image: &HostTensor| self.session.encode(image, None);
        let references = self.plan.references.iter().map(encode).collect::<transdiff::Result<Vec<_>>>()?;
        let (classes, seeds) = remaining.iter().copied().unzip();
        let request = Request {
            references,
            batch: NonZeroUsize::new(self.args.batch),
            outputs: OutputSelection { images: self.plan.decodes(), features: false },
            ..Request::new(classes, seeds, self.plan.sampling.clone())
        };
        let mut observer = |progress: &Progress<'_>| {
            bar.update(first as f64 + progress.fraction * remaining.len() as f64);
            ControlFlow::Continue(())
        };
        for batch in self.session.batches(&request, &mut observer)? {
            self.writer.write_batch(&batch?.output)?;
        }
        Ok(())
    }
}
