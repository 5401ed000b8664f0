//! Sets of images, generated from a model.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use transdiff::diffusion::{KeyedNoise, Preset, Progress, Sampling, SamplingSettings, Schedule, SolverKind};
use transdiff::models::transdiff::Session;
use transdiff::models::{Codec, Features, Model};
use transdiff::{Backend, CancellationToken, DType, Error, Result, Tensor, TransDiff};

use crate::judge::{Cosines, partner};
use crate::pictures::{CLASSES, to_pixel};
use crate::units::{Content, ImageSet, Sampled};

/// Warp of the times of students: 1, 0.7 and 0 in two steps, where equal steps do worse with pictures this coarse.
const STUDENT_WARP: [f64; 3] = [1.0, 1.0, 1.75];
/// Images that are generated at a time.
const BATCH: usize = 250;

/// Generated images.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// Pixels of all images.
    pub pixels: Vec<u8>,
    /// Class of each image, in turns.
    pub labels: Vec<usize>,
    /// Cosines of the features; none for a single feature.
    pub cosines: Option<Cosines>,
}

/// Generates images with a model.
pub struct Sampler<'a, B: Backend> {
    /// The model.
    pub model: &'a TransDiff<B>,
    /// Codec of its latents.
    pub codec: &'a dyn Codec<B>,
    /// Sampling steps per AR step, for sets without a solver of their own.
    pub steps: usize,
    /// Set on Ctrl-C.
    pub interrupted: &'a AtomicBool,
}

impl<B: Backend> Sampler<'_, B> {
    /// Generates `count` images of `set`, classes in turns. Image i has a noise of its own, which depends on `seed` and i
    /// alone, so that sets of one seed differ in nothing else.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the user interrupted it, and those of the model.
    pub fn generate(&self, set: &ImageSet, count: usize, seed: u64) -> Result<Images> {
        let labels: Vec<usize> = (0..count).map(|image| image % CLASSES.len()).collect();
        let seeds: Vec<u64> = (0..count as u64).map(|image| (seed << 32) + image).collect();
        let mut session = Session::new(self.model);
        let (mut pixels, mut diversity) = (Vec::new(), Vec::new());
        for (labels, seeds) in labels.chunks(BATCH).zip(seeds.chunks(BATCH)) {
            let (codes, features) = self.batch(&mut session, set, labels, seeds)?;
            if features.count() > 1 {
                diversity.extend(features.diversity()?);
            }
            let decoded = self.codec.decode_codes(&codes, &CancellationToken::new())?;
            pixels.extend(decoded.to_f32()?.into_iter().map(to_pixel));
        }
        let mean = |sum: f64| sum / diversity.len() as f64;
        let cosines = (!diversity.is_empty()).then(|| Cosines {
            root_mean_square: mean(diversity.iter().map(|image| image.root_mean_square).sum()),
            mean: mean(diversity.iter().map(|image| image.mean).sum()),
        });
        Ok(Images { pixels, labels, cosines })
    }

    /// Codes of a batch, and the features that they were decoded from.
    fn batch(
        &self,
        session: &mut Session<B>,
        set: &ImageSet,
        labels: &[usize],
        seeds: &[u64],
    ) -> Result<(Tensor<B>, Features<B>)> {
        let sampling = set.sampling(self.steps)?;
        let mut noise = KeyedNoise::new(self.model.backend(), DType::F32, seeds);
        let mut observer = |_: &Progress<'_, B>| match self.interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let features = match set.content {
            Content::Class => {
                let made = session.generate(labels, &[], &sampling, &mut noise, &mut observer)?;
                let none = || Error::argument("model", "one with semantic features", "another");
                return Ok((made.codes, made.features.ok_or_else(none)?));
            }
            Content::Truncated(count) => session.features(labels, &[])?.truncate(count)?,
            Content::Mixed(count) => {
                let partners: Vec<usize> = labels.iter().map(|&label| partner(label)).collect();
                session.features(labels, &[])?.splice(&session.features(&partners, &[])?, count)?
            }
        };
        Ok((session.decode(&features, &sampling, &mut noise, &mut observer)?, features))
    }
}

impl ImageSet {
    /// Solvers and guidance; `steps` of Euler–Maruyama per AR step where the set has no solver of its own.
    pub fn sampling(&self, steps: usize) -> Result<Sampling> {
        let ([drift, noise], groups) = (self.scales, self.model.groups());
        let settings = SamplingSettings::from(Preset::new(self.guidance, drift, noise));
        let settings = match self.sampled {
            Sampled::InSteps => settings.with_steps(steps),
            Sampled::By { solver, references, image, guided_until } => {
                let mut steps = vec![references; groups - 1];
                steps.push(image);
                let schedule = match solver {
                    SolverKind::Consistency => Schedule::Warped(steps, STUDENT_WARP),
                    _ => Schedule::Steps(steps),
                };
                SamplingSettings {
                    order: solver.default_order(),
                    schedule,
                    guidance_interval: (0.0, guided_until),
                    ..settings.with_solver(solver)
                }
            }
        };
        settings.build(groups)
    }
}
