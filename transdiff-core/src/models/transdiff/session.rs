//! Generation: one step, and multi-reference autoregression (paper, Appendix B, Algorithms 1 and 2).

use super::field::DecoderField;
use super::{Condition, Features, Mode, TransDiff, patchify, unpatchify};
use crate::autograd::Context;
use crate::autograd::Var;
use crate::diffusion::{ArStep, Guidance, Guided, NoiseSource, Observer, Sampler, Solver};
use crate::{Backend, CancellationToken, Error, Result, Tensor};

/// How latents are sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What integrates the velocity, and in how many steps.
    pub solver: Solver,
    /// Guidance of every trajectory, or one for all.
    pub guidance: Vec<Guidance>,
}

impl Sampling {
    /// `solver` under one guidance.
    pub fn new(solver: impl Into<Solver>, guidance: Guidance) -> Self {
        Self { solver: solver.into(), guidance: vec![guidance] }
    }

    fn guidance(&self, ar_step: ArStep) -> Result<Guidance> {
        match self.guidance[..] {
            [one] => Ok(one),
            ref each if each.len() == ar_step.count => Ok(each[ar_step.index]),
            ref other => {
                let expected = format!("one, or one for each of {} ar_steps", ar_step.count);
                Err(Error::argument("guidance", expected, other.len()))
            }
        }
    }
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generation<B: Backend> {
    /// Latents [B, C, h, w], in the scale that the model was trained on.
    pub latents: Tensor<B>,
    /// The latents that were references on the way, given ones included; empty in one step.
    pub references: Vec<Tensor<B>>,
    /// The features that the latents were decoded from.
    pub features: Features<B>,
}

/// One caller's use of a model. The model is shared; what a session keeps (the features that stand for no class)
/// is its own. A session serves one thread at a time, and is as usable after an error or a cancellation as
/// before.
#[derive(Clone, Debug)]
pub struct Session<B: Backend> {
    model: TransDiff<B>,
    unconditional: Option<Features<B>>,
    cancellation: CancellationToken,
}

impl<B: Backend> Session<B> {
    /// A session on `model`, sharing its memory.
    pub fn new(model: &TransDiff<B>) -> Self {
        Self { model: model.clone(), unconditional: None, cancellation: CancellationToken::new() }
    }

    /// Lets `cancellation` stop what the session does from now on, within a block of the model.
    pub fn set_cancellation(&mut self, cancellation: &CancellationToken) {
        self.cancellation = cancellation.clone();
    }

    fn ctx(&self) -> Context<B> {
        self.model.ctx().with_cancellation(&self.cancellation)
    }

    /// The model.
    pub fn model(&self) -> &TransDiff<B> {
        &self.model
    }

    /// Semantic features, as [`TransDiff::features`].
    ///
    /// # Errors
    /// As [`TransDiff::features`]; [`Error::Cancelled`].
    pub fn features(&self, labels: &[usize], references: &[Tensor<B>]) -> Result<Features<B>> {
        self.model.features_in(&self.ctx(), labels, references)
    }

    /// Features for no class of `images` images, as [`TransDiff::unconditional_features`]: what guidance leads away from.
    ///
    /// # Errors
    /// As [`TransDiff::features`]; [`Error::Cancelled`].
    pub fn unconditional_features(&self, images: usize, references: &[Tensor<B>]) -> Result<Features<B>> {
        let features = self.model.unconditional_features_in(&self.ctx(), references)?;
        let shape = [images, features.count(), self.model.config().width];
        Features::new(features.tensor().broadcast_to(&shape)?)
    }

    /// Generates a latent for every label. `references` are latents [B, C, h, w] to use in place of the first
    /// ones that multi-reference autoregression would generate itself; with one step there are none. Latents are of
    /// the noise's type, which may be wider than the model's: f32 for a model in bf16, whose steps would be rounded
    /// away otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] for a label that is no class, no labels, too many references or a wrong number of
    /// guidances; [`Error::Cancelled`]; [`Error::NonFinite`]; and what backend and noise meet.
    pub fn generate(
        &mut self,
        labels: &[usize],
        references: &[Tensor<B>],
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Generation<B>> {
        if labels.is_empty() {
            return Err(Error::argument("labels", "at least one class", "none"));
        }
        match self.model.config().mode {
            Mode::OneStep if references.is_empty() => {
                let features = self.features(labels, &[])?;
                let latents = self.decode(&features, sampling, noise, observer)?;
                Ok(Generation { latents, references: Vec::new(), features })
            }
            Mode::OneStep => Err(Error::argument("references", "none for a 1-step model", references.len())),
            Mode::MultiReference { groups } => {
                if references.len() >= groups {
                    let expected = format!("fewer than {groups} latents");
                    return Err(Error::argument("references", expected, references.len()));
                }
                self.generate_groups(labels, references, sampling, noise, observer)
            }
        }
    }

    /// Decodes features [B, n, D], which may have been cut or mixed, to latents [B, C, h, w]. Guidance leads away
    /// from the features without class, cut alike. For features of multi-reference autoregression that are to be
    /// guided use [`decode_with_unconditional`](Self::decode_against): there the features without class depend on the
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
        let guided = sampling.guidance(ArStep::ONLY)?.scale() > 1.0;
        let unconditional = if guided { Some(self.cached_unconditional(features.count())?) } else { None };
        self.decode_with_unconditional(features, unconditional.as_ref(), sampling, noise, observer)
    }

    /// Decodes `features` under a guidance that leads away from `unconditional`, which has as many images or one.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); [`Error::Argument`] if guidance is asked for without `unconditional`.
    pub fn decode_with_unconditional(
        &mut self,
        features: &Features<B>,
        unconditional: Option<&Features<B>>,
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        let condition = self.model.condition_in(&self.ctx(), features)?;
        let unconditional = unconditional.map(|u| self.model.condition_in(&self.ctx(), u)).transpose()?;
        self.integrate(condition, unconditional, sampling, ArStep::ONLY, noise, observer)
    }

    /// The first `count` features for no class, computed once.
    fn cached_unconditional(&mut self, count: usize) -> Result<Features<B>> {
        if self.unconditional.is_none() {
            self.unconditional = Some(self.model.unconditional_features_in(&self.ctx(), &[])?);
        }
        self.unconditional.as_ref().expect("just computed").first(count)
    }

    fn integrate(
        &self,
        condition: Condition<B>,
        unconditional: Option<Condition<B>>,
        sampling: &Sampling,
        ar_step: ArStep,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        let config = self.model.config();
        let guidance = sampling.guidance(ar_step)?;
        if guidance.scale() > 1.0 && unconditional.is_none() {
            return Err(Error::argument("unconditional", "features, for a guidance above 1", "none"));
        }
        let images = condition.images();
        let x = noise.initial(&[images, config.decoder_tokens(), config.latent_channels])?;
        let unconditional = unconditional.filter(|_| guidance.scale() > 1.0);
        let timesteps = sampling.solver.timesteps();
        let decoder = self.model.decoder();
        let field = DecoderField::new(self.ctx(), decoder, condition, unconditional.as_ref(), timesteps)?;
        let guided = Guided::new(&field, guidance);
        let tokens = sampling.solver.sample(&guided, x, ar_step, noise, observer)?;
        unpatchify(&tokens, config.latent_size, config.latent_size, 1)
    }

    fn generate_groups(
        &mut self,
        labels: &[usize],
        given: &[Tensor<B>],
        sampling: &Sampling,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Generation<B>> {
        let ctx = self.ctx();
        let count = self.model.config().groups();
        let class = self.model.ar().class_embedding(&ctx, labels)?;
        let none = self.model.ar().unconditional_embedding(&ctx)?.broadcast_to(class.shape())?;
        let (mut conditional, mut unconditional) = (Branch::new(self, class), Branch::new(self, none));
        let mut references = given.to_vec();
        for index in given.len()..count {
            let ar_step = ArStep { index, count, given: given.len() };
            let features = conditional.advance(&ctx, &self.model, &references)?;
            let condition = self.model.condition_in(&ctx, &features)?;
            let against = if sampling.guidance(ar_step)?.scale() > 1.0 {
                let features = unconditional.advance(&ctx, &self.model, &references)?;
                Some(self.model.condition_in(&ctx, &features)?)
            } else {
                None
            };
            let latents = self.integrate(condition, against, sampling, ar_step, noise, observer)?;
            if index + 1 == count {
                return Ok(Generation { latents, references, features });
            }
            references.push(latents);
        }
        unreachable!("there are fewer references than groups")
    }
}

/// One branch of multi-reference autoregression: with the class or without.
struct Branch<B: Backend> {
    class: Var<B>,
    cache: super::PrefixCache<B>,
    features: Option<Features<B>>,
}

impl<B: Backend> Branch<B> {
    fn new(session: &Session<B>, class: Var<B>) -> Self {
        Self { class, cache: session.model.ar().prefix_cache(), features: None }
    }

    /// Features of groups 0..=references.len(), computing only those that are not there yet.
    fn advance(
        &mut self,
        ctx: &Context<B>,
        model: &TransDiff<B>,
        references: &[Tensor<B>],
    ) -> Result<Features<B>> {
        for group in self.cache.groups()..=references.len() {
            let reference = group.checked_sub(1).map(|before| &references[before]);
            let new = model.ar().next_features(ctx, &self.class, reference, &mut self.cache)?;
            let new = Features::new(new.into_value())?;
            self.features = Some(match &self.features {
                Some(old) => old.concat(&new)?,
                None => new,
            });
        }
        Ok(self.features.clone().expect("the first call computes a group"))
    }
}

/// A latent [B, C, h, w] as the tokens [B, h·w, C] that samplers integrate.
///
/// # Errors
/// [`Error::Shape`] for a tensor of another rank.
pub fn latent_tokens<B: Backend>(latent: &Tensor<B>) -> Result<Tensor<B>> {
    patchify(latent, 1)
}
