//! `transdiff sample`: images of classes.

mod gallery;
mod grid;
mod options;
mod plan;
mod progress;

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use transdiff::checkpoint::WeightFile;
use transdiff::models::vae::StoredVae;
use transdiff::pipeline::{LoadOptions, Output, Pipeline, PipelineSession, Request, Step, Wanted};
use transdiff::{CancellationToken, Error, HostTensor};

use crate::failure::Result;
use crate::text;
use gallery::Gallery;
pub use options::Options;
use plan::Plan;
use progress::GenerationBar;

pub fn run(options: &Options) -> Result<()> {
    let model = WeightFile::open(&options.model)?;
    let vae = options.vae.as_ref().map(WeightFile::open).transpose()?;
    let config = options.hints.find(&model)?.config().clone();
    let vae_config = vae.as_ref().map(StoredVae::find).transpose()?.map(|source| source.config().clone());
    let plan = Plan::new(options, &config, vae_config.as_ref())?;
    if options.estimate {
        return estimate(options, &model, vae.as_ref(), &plan);
    }
    let gallery = Gallery::new(options, &plan, &config)?;
    let pipeline = load(options, &model, vae.as_ref())?;
    text::say(&plan.to_string());
    gallery.open()?;
    // From here on Ctrl-C leaves what is complete; before, there is nothing to leave.
    let cancellation = CancellationToken::new();
    cancel_on_interrupt(&cancellation)?;
    let mut session = pipeline.session();
    session.set_cancellation(&cancellation);
    Run { options, plan: &plan, session, gallery }.finish()
}

fn load(options: &Options, model: &WeightFile, vae: Option<&WeightFile>) -> Result<Pipeline> {
    Pipeline::load(model, vae, &options.load(), &mut |_, message| text::say(message)).map_err(|error| {
        match error {
            Error::DType { expected, got, .. } => {
                format!("--dtype {got}: expected {expected}, as f32 is").into()
            }
            other => other.into(),
        }
    })
}

/// Prints what loading and generating would take.
fn estimate(options: &Options, model: &WeightFile, vae: Option<&WeightFile>, plan: &Plan) -> Result<()> {
    let batch = options.batch.get();
    let images = if plan.images.is_empty() { batch } else { batch.min(plan.images.len()) };
    // What `auto` means depends on the machine, and another machine's memory is of no use.
    let device = options.device.open(options.threads)?;
    let load = LoadOptions { device: device.device(), ..options.load() };
    let memory = Pipeline::estimate(model, vae, &load, images)?;
    let rows = [
        ("weights", memory.weights),
        ("while loading, besides", memory.loading),
        (&*format!("while generating {images} at a time, besides"), memory.generation),
        ("at most", memory.weights.saturating_add(memory.loading.max(memory.generation))),
    ]
    .map(|(what, count)| [what.to_owned(), text::bytes(count)]);
    text::print(format!(
        "memory on {}\n{}",
        device.choice(),
        text::table([text::Align::Left, text::Align::Right], &rows)
    ))
}

fn cancel_on_interrupt(cancellation: &CancellationToken) -> Result<()> {
    let cancellation = cancellation.clone();
    let handler = move || {
        if cancellation.is_cancelled() {
            std::process::exit(130); // a second time: at once
        }
        cancellation.cancel();
    };
    ctrlc::set_handler(handler).map_err(|e| format!("cannot watch for Ctrl-C: {e}").into())
}

/// A generation that is under way.
struct Run<'a> {
    options: &'a Options,
    plan: &'a Plan,
    session: PipelineSession,
    gallery: Gallery<'a>,
}

impl Run<'_> {
    /// Generates, and leaves what is complete in the gallery, whatever happens.
    fn finish(mut self) -> Result<()> {
        let started = Instant::now();
        let count = self.plan.images.len();
        let mut bar = GenerationBar::new(count);
        let outcome = self.batches(&mut bar);
        bar.finish();
        let done = self.gallery.images();
        let closed = self.gallery.close();
        if let Err(failure) = outcome {
            // Why it ended comes before what became of the rest.
            let left = match closed {
                Ok(place) => format!("{done} of {count} images are complete{place}"),
                Err(also) => also.to_string(),
            };
            return Err(failure.leaving(&left));
        }
        let place = closed?;
        let seconds = started.elapsed().as_secs_f64();
        let rate = count as f64 / seconds;
        let images = if count == 1 { "image" } else { "images" };
        text::print(format!("{count} {images} in {seconds:.1} s ({rate:.3} images/s){place}\n"))
    }

    fn batches(&mut self, bar: &mut GenerationBar) -> Result<()> {
        let encode = |image: &HostTensor| self.session.encode(image, None);
        let references = self.plan.references.iter().map(encode).collect::<transdiff::Result<Vec<_>>>()?;
        let (count, size) = (self.plan.images.len(), self.options.batch.get());
        for start in (0..count).step_by(size) {
            let batch = start..count.min(start.saturating_add(size));
            let made = self.batch(&batch, &references, bar)?;
            self.gallery.add(&batch, &made)?;
        }
        Ok(())
    }

    fn batch(
        &mut self,
        batch: &Range<usize>,
        references: &[HostTensor],
        bar: &mut GenerationBar,
    ) -> Result<Output> {
        let (classes, seeds) = self.plan.images[batch.clone()].iter().copied().unzip();
        let mut request = Request::new(classes, seeds, self.plan.sampling.clone());
        request.references =
            references.iter().map(|one| repeated(one, batch.len())).collect::<Result<_>>()?;
        request.wanted = Wanted { images: self.options.vae.is_some(), features: false };
        let mut watch = |step: &Step<'_>| {
            bar.show(batch.start as f64 + step.fraction * batch.len() as f64);
            ControlFlow::Continue(())
        };
        Ok(self.session.generate(&request, &mut watch)?)
    }
}

/// A latent [1, C, h, w] for every image of a batch.
fn repeated(latent: &HostTensor, images: usize) -> Result<HostTensor> {
    let shape = [&[images], &latent.shape()[1..]].concat();
    Ok(HostTensor::f32(&shape, latent.to_f32().repeat(images))?)
}
