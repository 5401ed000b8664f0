//! Sessions: one caller's use of a model.

use std::ops::ControlFlow;

use super::TransDiff;
use super::run::{Run, SeededRun};
use crate::autograd::Context;
use crate::diffusion::{NoiseSource, Observer, Progress, Sampling};
use crate::models::{Advance, Conditioning, Features, Generation, GeneratorInfo, Model};
use crate::{Backend, CancellationToken, Error, Result, Tensor};

/// One caller's use of a model. The model is shared; a session owns what it caches (the unconditional features). It
/// serves one thread at a time, and is as usable after an error or a cancellation as before.
///
/// [`generate`](Self::generate) and [`decode`](Self::decode) take any [`NoiseSource`] and run to the end. As a
/// [`Generator`](crate::models::Generator) the session draws noise from seeds and is advanced by its caller.
#[derive(Debug)]
pub struct Session<B: Backend> {
    pub(super) model: TransDiff<B>,
    pub(super) unconditional: Option<Features<B>>,
    pub(super) token: CancellationToken,
    pub(super) info: GeneratorInfo,
    pub(super) current: Option<SeededRun<B>>,
}

impl<B: Backend> Session<B> {
    /// A session on `model`, sharing its memory.
    pub fn new(model: &TransDiff<B>) -> Self {
        Self {
            model: model.clone(),
            unconditional: None,
            token: CancellationToken::new(),
            info: model.config().generator_info(),
            current: None,
        }
    }

    /// Sets the token that cancels everything that the session computes from now on. It is checked between blocks of the model.
    pub fn set_cancellation(&mut self, token: &CancellationToken) {
        self.token = token.clone();
    }

    pub(super) fn ctx(&self) -> Context<B> {
        self.model.inference().with_cancellation(&self.token)
    }

    /// The model.
    pub fn model(&self) -> &TransDiff<B> {
        &self.model
    }

    /// Semantic features, as [`TransDiff::features`].
    ///
    /// # Errors
    /// As [`TransDiff::features`].
    pub fn features(&self, labels: &[usize], references: &[Tensor<B>]) -> Result<Features<B>> {
        self.model.features(&self.ctx(), labels, references)
    }

    /// Unconditional features of `images` images for classifier-free guidance, as
    /// [`TransDiff::unconditional_features`].
    ///
    /// # Errors
    /// As [`TransDiff::features`].
    pub fn unconditional_features(&self, images: usize, references: &[Tensor<B>]) -> Result<Features<B>> {
        let features = self.model.unconditional_features(&self.ctx(), references)?;
        let shape = [images, features.count(), self.model.config().width];
        Features::new(features.tensor().broadcast_to(&shape)?)
    }

    /// Generates a latent per label. `references` are latents [B, C, h, w] in place of the results of the first AR steps;
    /// a 1-step model takes none. Latents have the noise's type, which may be wider than the model's: f32 for a model in
    /// bf16, which would round the steps away.
    ///
    /// # Errors
    /// [`Error::Argument`] for a label that is no class, no labels, too many references or a wrong number of
    /// guidances; [`Error::Cancelled`]; [`Error::NonFinite`]; and those of backend and noise.
    pub fn generate(
        &mut self,
        labels: &[usize],
        references: &[Tensor<B>],
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Generation<B>> {
        let conditioning = Conditioning::Classes(labels.to_vec());
        let run = Run::new(&self.model, &self.token, conditioning, references.to_vec(), sampling)?;
        self.complete(run, noise, observer)
    }

    /// Decodes features [B, n, D], which may have been truncated or spliced, to latents [B, C, h, w]. Guidance uses the
    /// unconditional features, truncated alike. To guide features of multi-reference autoregression use
    /// [`decode_with_unconditional`](Self::decode_with_unconditional): there the unconditional features depend on the
    /// references.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn decode(
        &mut self,
        features: &Features<B>,
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        self.decode_conditioned(features, None, sampling, noise, observer)
    }

    /// Decodes `features` with classifier-free guidance by the given `unconditional` features, of as many images or one.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn decode_with_unconditional(
        &mut self,
        features: &Features<B>,
        unconditional: &Features<B>,
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        self.decode_conditioned(features, Some(unconditional), sampling, noise, observer)
    }

    fn decode_conditioned(
        &mut self,
        features: &Features<B>,
        unconditional: Option<&Features<B>>,
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        let (features, unconditional) = (features.clone(), unconditional.cloned());
        let conditioning = Conditioning::Features { features, unconditional };
        let run = Run::new(&self.model, &self.token, conditioning, Vec::new(), sampling)?;
        Ok(self.complete(run, noise, observer)?.codes)
    }

    /// Runs a generation to its end.
    fn complete(
        &mut self,
        mut run: Run<B>,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Generation<B>> {
        loop {
            let advanced = run.advance(noise, &mut |count| self.cached_unconditional(count))?;
            let preview = || run.preview();
            if let ControlFlow::Break(()) = observer.step(&Progress::new(advanced.step(), &preview)) {
                return Err(Error::Cancelled);
            }
            if let Advance::Done(_) = advanced {
                return run.finish();
            }
        }
    }

    /// The first `count` unconditional features of a 1-step model, computed once per session.
    pub(super) fn cached_unconditional(&mut self, count: usize) -> Result<Features<B>> {
        if self.unconditional.is_none() {
            self.unconditional = Some(self.model.unconditional_features(&self.ctx(), &[])?);
        }
        self.unconditional.as_ref().expect("just computed").truncate(count)
    }
}
