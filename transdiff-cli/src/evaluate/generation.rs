//! Generation of the images of an evaluation, shard by shard.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use png::ColorType;
use transdiff::datasets::cache::Part;
use transdiff::diffusion::Sampling;
use transdiff::models::Features;
use transdiff::models::inception::Inception;
use transdiff::pipeline::{
    Output, OutputSelection, Pipeline, PipelineSession, PixelFormat, Progress, Request, to_pixels,
};
use transdiff::{Backend, CancellationToken, Cpu, DType, DeviceTask, Tensor};

use super::directory::{Directory, Shard};
use super::machine::Machine;
use crate::bitmap::{Bitmap, BitmapFormat};
use crate::sample::GenerationBar;

/// Colour channels of the pictures that are written and measured; grey ones have three equal channels.
const CHANNELS: usize = 3;

/// Generates the images of a part, writes them, and measures them.
pub struct Generation<'a> {
    pub directory: &'a Directory,
    pub pipeline: &'a Pipeline,
    pub sampling: Sampling,
    pub part: Part,
    pub batch: NonZeroUsize,
    pub machine: Machine,
    /// Keeps the pictures.
    pub keep: bool,
    pub cpu: &'a Cpu,
    pub token: &'a CancellationToken,
}

impl DeviceTask for Generation<'_> {
    type Output = crate::failure::Result<()>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Self::Output> {
        let images = &self.directory.settings.images;
        let inception = Inception::load(&backend, &self.directory.settings.inception.path)?;
        let mut session = self.pipeline.session();
        session.set_cancellation(self.token);
        let (finished, unfinished): (Vec<usize>, Vec<usize>) = self
            .part
            .shards(images.shards())
            .partition(|&shard| self.directory.is_finished(shard, self.keep));
        let count = |shards: &[usize]| shards.iter().map(|&shard| images.shard(shard).len()).sum::<usize>();
        let (mut done, left) = (count(&finished), count(&unfinished));
        let mut bar = GenerationBar::new(done + left, done);
        // The first batch is not timed: it prepares what the others reuse.
        let mut timed = false;
        let generated = unfinished.into_iter().try_for_each(|number| {
            let shard = self.shard(number, &inception, &mut session, &mut timed, &mut |fraction| {
                bar.update(done as f64 + fraction * images.shard(number).len() as f64);
            })?;
            self.directory.write_shard(number, &shard, &self.machine)?;
            done += images.shard(number).len();
            Ok::<(), crate::failure::Failure>(())
        });
        bar.finish();
        Ok(generated)
    }
}

impl Generation<'_> {
    /// Generates and measures the images of a shard.
    fn shard<B: Backend>(
        &self,
        number: usize,
        inception: &Inception<B>,
        session: &mut PipelineSession,
        timed: &mut bool,
        progressed: &mut dyn FnMut(f64),
    ) -> crate::failure::Result<Shard> {
        let generated = &self.directory.settings.images;
        let images = generated.shard(number);
        let drawn = |image: usize| (generated.class(image), generated.seed + image as u64);
        let (classes, seeds) = images.clone().map(drawn).unzip();
        let request = Request {
            batch: Some(self.batch),
            outputs: OutputSelection { images: true, features: true },
            ..Request::new(classes, seeds, self.sampling.clone())
        };
        let mut observer = |progress: &Progress<'_>| {
            progressed(progress.fraction);
            ControlFlow::Continue(())
        };
        let mut batches = session.batches(&request, &mut observer)?;
        let mut shard = Shard::default();
        loop {
            let begin = Instant::now();
            let Some(batch) = batches.next() else { return Ok(shard) };
            let batch = batch?;
            if std::mem::replace(timed, true) {
                shard.timed.seconds += begin.elapsed().as_secs_f64();
                shard.timed.images += batch.images.len();
            }
            self.measure(images.start + batch.images.start, &batch.output, inception, &mut shard)?;
        }
    }

    /// Measures the images of a batch, the first of which is number `first`, and writes them.
    fn measure<B: Backend>(
        &self,
        first: usize,
        output: &Output,
        inception: &Inception<B>,
        shard: &mut Shard,
    ) -> crate::failure::Result<()> {
        let images = output.images.as_ref().expect("they were asked for");
        let &[count, _, height, width] = images.shape() else { unreachable!("images are [n, c, H, W]") };
        let mut pixels = vec![0; count * height * width * CHANNELS];
        to_pixels(images, PixelFormat::Rgb8Hwc, &mut pixels)?;
        let results = inception.forward(&pixels, [height, width], self.token)?;
        shard.features.extend(results.features_2048.to_f32()?);
        shard.logits.extend(results.logits_unbiased.to_f32()?);
        let features = output.features.as_ref().expect("they were asked for");
        let features = Tensor::from_f32(self.cpu, features.shape(), features.to_f32(), DType::F32)?;
        shard.diversity.extend(Features::new(features)?.diversity()?);
        if self.keep {
            let format = BitmapFormat { height, width, color: ColorType::Rgb };
            for (image, bytes) in (first..).zip(pixels.chunks_exact(height * width * CHANNELS)) {
                let bitmap = Bitmap { format, bytes: bytes.to_vec() };
                bitmap.write_png(&self.directory.image_path(image), None)?;
            }
        }
        Ok(())
    }
}
