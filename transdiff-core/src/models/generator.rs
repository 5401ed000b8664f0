//! Generators: from classes and seeds to codes, step by step.

use std::fmt::Debug;

use super::Features;
use crate::diffusion::{Consistency, Preset, Sampling, SamplingSettings, SamplingStep, Solver, SolverKind};
use crate::{Backend, CancellationToken, Error, Precision, Result, Tensor};

/// Shape of a model's semantic features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureShape {
    /// Number of features per image.
    pub count: usize,
    /// Number of features per AR step.
    pub per_ar_step: usize,
    /// Width of a feature.
    pub width: usize,
}

/// Description of a generator, for callers that do not know its model.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorInfo {
    /// Name of the model.
    pub model: &'static str,
    /// Number of classes.
    pub classes: usize,
    /// Shape [C, h, w] of the codes of an image.
    pub code_shape: [usize; 3],
    /// Number of AR steps of a generation.
    pub ar_steps: usize,
    /// True for multi-reference autoregression (MRAR): later AR steps refer to the results of earlier ones, so that
    /// references can be given.
    pub multi_reference: bool,
    /// Shape of the semantic features; none if the model has no features.
    pub features: Option<FeatureShape>,
    /// Guidance and scales of the published model, or else plain ones.
    pub preset: Preset,
    /// True for a model that was distilled into a consistency function, which needs the solver of one, and no guidance.
    pub distilled: bool,
}

impl GeneratorInfo {
    /// Shape [n, C, h, w] of the codes of `n` images.
    pub fn codes_shape(&self, n: usize) -> [usize; 4] {
        let [c, h, w] = self.code_shape;
        [n, c, h, w]
    }

    /// Largest number of references that can be given.
    pub fn max_references(&self) -> usize {
        if self.multi_reference { self.ar_steps - 1 } else { 0 }
    }

    /// Default sampling settings: the paper's, or for a distilled model [`Consistency::STEPS`] steps.
    pub fn settings(&self) -> SamplingSettings {
        let settings = SamplingSettings::from(self.preset);
        match self.distilled {
            true => settings.with_solver(SolverKind::Consistency).with_steps(Consistency::STEPS),
            false => settings,
        }
    }

    /// Checks that `sampling` goes with the model.
    ///
    /// # Errors
    /// [`Error::Argument`] for another solver than [`Consistency`], or guidance, if the model is distilled; for that solver if it
    /// is not.
    pub fn check_sampling(&self, sampling: &Sampling) -> Result<()> {
        let mut kinds = sampling.solvers.iter().map(Solver::kind);
        let expected = match self.distilled {
            true => "consistency, because the model is distilled",
            false => "one that integrates velocities, because the model is not distilled",
        };
        if let Some(kind) = kinds.find(|&kind| (kind == SolverKind::Consistency) != self.distilled) {
            return Err(Error::argument("solver", expected, kind.name()));
        }
        match sampling.guidance.iter().find(|guidance| guidance.scale() > 1.0) {
            Some(guidance) if self.distilled => {
                let expected = "1, because guidance is part of the distilled model";
                Err(Error::argument("guidance", expected, guidance.scale()))
            }
            _ => Ok(()),
        }
    }

    /// Shape of the semantic features.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has none.
    pub fn feature_shape(&self) -> Result<FeatureShape> {
        self.features.ok_or_else(|| no_features(self.model))
    }

    /// Checks that every label names a class.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub fn check_labels(&self, labels: &[usize]) -> Result<()> {
        check_labels(labels, self.classes)
    }
}

pub(crate) fn check_labels(labels: &[usize], classes: usize) -> Result<()> {
    match labels.iter().find(|&&label| label >= classes) {
        Some(bad) => Err(Error::argument("class", format!("a number in 0..{classes}"), bad)),
        None => Ok(()),
    }
}

fn no_features(model: &str) -> Error {
    Error::argument("features", "a model with semantic features", model)
}

/// Condition of a generation, for tensors of type `T`.
#[derive(Clone, Debug)]
pub enum Conditioning<T> {
    /// A class per image.
    Classes(Vec<usize>),
    /// Semantic features [n, k, D], which may have been truncated or spliced.
    Features {
        /// The features to decode.
        features: T,
        /// Unconditional features for classifier-free guidance, [n, k, D] or [1, k, D]. By default the model's own,
        /// truncated alike; features of more than the first AR step need them to be guided, since there they depend on
        /// the references ([`Generator::unconditional_features`]).
        unconditional: Option<T>,
    },
}

/// Input of a generation: one batch of images.
#[derive(Clone, Debug)]
pub struct GenerationInput<B: Backend> {
    /// Classes, or features.
    pub conditioning: Conditioning<Tensor<B>>,
    /// Seed of each image: with it, the image is the same alone and in any batch.
    pub seeds: Vec<u64>,
    /// Codes [n, C, h, w] in place of the results of the first AR steps.
    pub references: Vec<Tensor<B>>,
    /// State at t = 1, [n, C, h, w], in place of the initial noise of the seeds.
    pub initial_noise: Option<Tensor<B>>,
    /// Solver and guidance.
    pub sampling: Sampling,
}

/// Result of a generation.
#[derive(Clone, Debug)]
pub struct Generation<B: Backend> {
    /// Codes [n, C, h, w] in the scale that the model was trained on.
    pub codes: Tensor<B>,
    /// Codes of the earlier AR steps, given ones included; empty if there is only one AR step.
    pub references: Vec<Tensor<B>>,
    /// Features that the codes were decoded from, if the model has features.
    pub features: Option<Features<B>>,
}

/// Outcome of [`Generator::advance`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advance {
    /// A step was completed, and there are more.
    More(SamplingStep),
    /// The last step was completed.
    Done(SamplingStep),
}

impl Advance {
    /// The completed step.
    pub fn step(&self) -> SamplingStep {
        match *self {
            Self::More(step) | Self::Done(step) => step,
        }
    }
}

/// A model that makes codes from classes and seeds, for one caller at a time.
///
/// A generation is begun, advanced until it is done, and finished. The caller runs the loop, and can report progress, take
/// previews or cancel between steps, alike for all models. A generator remains usable after an error or a cancellation.
pub trait Generator<B: Backend>: Debug + Send {
    /// Description of the model.
    fn info(&self) -> &GeneratorInfo;

    /// Backend that it computes on.
    fn backend(&self) -> &B;

    /// Number format that it computes in.
    fn precision(&self) -> Precision;

    /// Number of parameters, in elements.
    fn param_count(&self) -> usize;

    /// Another generator that shares the weights of this one, for another caller.
    fn fork(&self) -> Box<dyn Generator<B>>;

    /// Sets the token that cancels everything that is computed from now on. It is checked between blocks of the model.
    fn set_cancellation(&mut self, token: &CancellationToken);

    /// Begins a generation; one that is not finished is dropped.
    ///
    /// # Errors
    /// [`Error::Argument`] and [`Error::Shape`] for input that does not go with the model.
    fn begin(&mut self, input: GenerationInput<B>) -> Result<()>;

    /// Computes the next step.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::NonFinite`]; [`Error::Argument`] if no generation was begun or it is done; and
    /// those of the backend. The generation is dropped then.
    fn advance(&mut self) -> Result<Advance>;

    /// Prediction of x₀ (the denoised codes) at the latest step, [n, C, h, w].
    ///
    /// # Errors
    /// [`Error::Argument`] before the first step, and those of the backend.
    fn preview(&self) -> Result<Tensor<B>>;

    /// Result of the generation, after the last step.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no generation that is done.
    fn finish(&mut self) -> Result<Generation<B>>;

    /// Semantic features [n, k, D] of `labels`: those of the first 1 + `references.len()` AR steps, given the codes
    /// [n, C, h, w] of the earlier ones.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no features, for a label that is no class or for too many references;
    /// [`Error::Cancelled`].
    fn features(&mut self, labels: &[usize], references: &[Tensor<B>]) -> Result<Features<B>> {
        let _ = (labels, references);
        Err(no_features(self.info().model))
    }

    /// Unconditional features of `images` images, in the shape of [`features`](Self::features).
    ///
    /// # Errors
    /// As [`features`](Self::features).
    fn unconditional_features(&mut self, images: usize, references: &[Tensor<B>]) -> Result<Features<B>> {
        let _ = (images, references);
        Err(no_features(self.info().model))
    }
}
