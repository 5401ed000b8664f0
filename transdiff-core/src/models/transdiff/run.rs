//! Generation of one batch as a state machine: AR step by AR step, sampling step by sampling step (paper, Appendix B,
//! Algorithms 1 and 2).

use super::field::DecoderField;
use super::{Condition, Mode, PrefixCache, TransDiff, unpatchify};
use crate::autograd::{Context, Var};
use crate::diffusion::{
    ArStep, GuidedField, KeyedNoise, NoiseSource, Sampler, Sampling, SamplingStep, SolverState,
};
use crate::models::{Advance, Conditioning, Features, Generation, Model};
use crate::{Backend, CancellationToken, Error, Result, Tensor};

/// Source of the features of each AR step.
#[derive(Debug)]
enum FeatureSource<B: Backend> {
    /// All features at once, from classes; unconditional features come from the session's cache.
    OneStep { labels: Vec<usize> },
    /// Given features.
    Given { features: Features<B>, unconditional: Option<Features<B>> },
    /// Multi-reference autoregression: the branches with and without class, and the references so far.
    MultiReference { conditional: Box<Branch<B>>, unconditional: Box<Branch<B>> },
}

/// Integration of one AR step.
#[derive(Debug)]
struct Integration<B: Backend> {
    field: DecoderField<B>,
    state: SolverState<B>,
    /// Number of completed steps.
    done: usize,
}

/// Generation of one batch.
#[derive(Debug)]
pub(super) struct Run<B: Backend> {
    token: CancellationToken,
    model: TransDiff<B>,
    sampling: Sampling,
    source: FeatureSource<B>,
    ar_step: ArStep,
    references: Vec<Tensor<B>>,
    /// Features of the current AR step, once computed.
    features: Option<Features<B>>,
    integration: Option<Integration<B>>,
    /// Prediction inputs of the latest step, kept after its integration has ended.
    latest: Option<SolverState<B>>,
    latents: Option<Tensor<B>>,
}

impl<B: Backend> Run<B> {
    /// A generation that no step of has been made. `references` are latents [B, C, h, w] in place of the results of the
    /// first AR steps.
    ///
    /// # Errors
    /// [`Error::Argument`] for no images, a label that is no class, too many references or a wrong number of
    /// solvers or guidances, or those that do not go with the model.
    pub(super) fn new(
        model: &TransDiff<B>,
        token: &CancellationToken,
        conditioning: Conditioning<Features<B>>,
        references: Vec<Tensor<B>>,
        sampling: &Sampling,
    ) -> Result<Self> {
        let ctx = context(model, token);
        let (source, count) = match conditioning {
            Conditioning::Classes(labels) if labels.is_empty() => {
                return Err(Error::argument("labels", "at least one class", "none"));
            }
            Conditioning::Classes(labels) => match model.config().mode {
                Mode::OneStep => (FeatureSource::OneStep { labels }, 1),
                Mode::MultiReference { groups } => {
                    let class = model.ar().class_embedding(&ctx, &labels)?;
                    let none = model.ar().unconditional_embedding(&ctx)?.broadcast_to(class.shape())?;
                    let [conditional, unconditional] =
                        [class, none].map(|class| Box::new(Branch::new(model, class)));
                    (FeatureSource::MultiReference { conditional, unconditional }, groups)
                }
            },
            Conditioning::Features { features, unconditional } => {
                (FeatureSource::Given { features, unconditional }, 1)
            }
        };
        if references.len() >= count {
            let expected = match (&source, count) {
                (FeatureSource::Given { .. }, _) => "none where features are given".to_owned(),
                (_, 1) => "none for a 1-step model".to_owned(),
                _ => format!("fewer than {count} latents"),
            };
            return Err(Error::argument("references", expected, references.len()));
        }
        let given = references.len();
        let ar_step = ArStep { index: given, count, given };
        model.config().generator_info().check_sampling(sampling)?;
        sampling.guidance(ar_step)?;
        sampling.solver(ar_step)?;
        Ok(Self {
            token: token.clone(),
            model: model.clone(),
            sampling: sampling.clone(),
            source,
            ar_step,
            references,
            features: None,
            integration: None,
            latest: None,
            latents: None,
        })
    }

    /// Computes the next sampling step; before the first one of an AR step also its features. `unconditional` returns
    /// the first k unconditional features of a 1-step model.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::NonFinite`], [`Error::Argument`] after the last step, and those of noise and
    /// backend.
    pub(super) fn advance(
        &mut self,
        noise: &mut dyn NoiseSource<B>,
        unconditional: &mut dyn FnMut(usize) -> Result<Features<B>>,
    ) -> Result<Advance> {
        if self.latents.is_some() {
            return Err(Error::argument("advance", "a generation that is not done", "one that is done"));
        }
        let mut integration = match self.integration.take() {
            Some(integration) => integration,
            None => self.begin_ar_step(noise, unconditional)?,
        };
        let ar_step = self.ar_step;
        let solver = self.sampling.solver(ar_step)?;
        let guided = GuidedField::new(&integration.field, self.sampling.guidance(ar_step)?);
        let timesteps = solver.timesteps();
        let (i, total) = (integration.done, timesteps.steps());
        solver.step(i, &mut integration.state, &guided, noise)?;
        integration.done += 1;
        let ArStep { index, count, given } = ar_step;
        let before = self.sampling.steps(given..index, count)?;
        let all = self.sampling.steps(given..count, count)?;
        let step = SamplingStep { ar_step, done: i + 1, total, before, all, t: timesteps.time(i) };
        if integration.done < total {
            self.latest = Some(integration.state.clone());
            self.integration = Some(integration);
            return Ok(Advance::More(step));
        }
        self.latest = Some(integration.state.clone());
        self.end_ar_step(integration.state)?;
        Ok(if step.is_last() { Advance::Done(step) } else { Advance::More(step) })
    }

    fn begin_ar_step(
        &mut self,
        noise: &mut dyn NoiseSource<B>,
        unconditional: &mut dyn FnMut(usize) -> Result<Features<B>>,
    ) -> Result<Integration<B>> {
        self.latest = None;
        let guided = self.sampling.guidance(self.ar_step)?.scale() > 1.0;
        let (condition, against) = self.conditions(guided, unconditional)?;
        let config = self.model.config();
        let x = noise.initial(&[condition.images(), config.decoder_tokens(), config.latent_channels])?;
        let timesteps = self.sampling.solver(self.ar_step)?.timesteps();
        let decoder = self.model.decoder().clone();
        let field = DecoderField::new(
            context(&self.model, &self.token),
            decoder,
            condition,
            against.as_ref(),
            timesteps,
        )?;
        Ok(Integration { field, state: SolverState::new(x, self.ar_step)?, done: 0 })
    }

    /// Conditions of the AR step with class and, if it is guided, without.
    fn conditions(
        &mut self,
        guided: bool,
        cached: &mut dyn FnMut(usize) -> Result<Features<B>>,
    ) -> Result<(Condition<B>, Option<Condition<B>>)> {
        let (ctx, model) = (&context(&self.model, &self.token), &self.model);
        let features = match &mut self.source {
            FeatureSource::OneStep { labels } => model.features(ctx, labels, &[])?,
            FeatureSource::Given { features, .. } => features.clone(),
            FeatureSource::MultiReference { conditional, .. } => {
                conditional.advance(ctx, model, &self.references)?
            }
        };
        let unconditional = match &mut self.source {
            _ if !guided => None,
            FeatureSource::Given { unconditional: Some(features), .. } => Some(features.clone()),
            FeatureSource::OneStep { .. } | FeatureSource::Given { .. } => Some(cached(features.count())?),
            FeatureSource::MultiReference { unconditional, .. } => {
                Some(unconditional.advance(ctx, model, &self.references)?)
            }
        };
        let condition = model.condition(ctx, &features)?;
        let unconditional = unconditional.map(|features| model.condition(ctx, &features)).transpose()?;
        self.features = Some(features);
        Ok((condition, unconditional))
    }

    fn end_ar_step(&mut self, state: SolverState<B>) -> Result<()> {
        let side = self.model.config().latent_size;
        let latents = unpatchify(&self.sampling.solver(self.ar_step)?.finish(state)?, side, side, 1)?;
        if self.ar_step.is_last() {
            self.latents = Some(latents);
        } else {
            self.references.push(latents);
            self.ar_step.index += 1;
        }
        Ok(())
    }

    /// Prediction [B, C, h, w] of the latents after the latest step.
    ///
    /// # Errors
    /// [`Error::Argument`] before the first step, and those of tensor arithmetic.
    pub(super) fn preview(&self) -> Result<Tensor<B>> {
        let none = || Error::argument("preview", "at least one completed step", "none");
        let latest = self.latest.as_ref().ok_or_else(none)?;
        let tokens = self.sampling.solver(latest.ar_step())?.preview(latest)?;
        let side = self.model.config().latent_size;
        unpatchify(&tokens, side, side, 1)
    }

    /// Result, after the last step.
    ///
    /// # Errors
    /// [`Error::Argument`] before it.
    pub(super) fn finish(self) -> Result<Generation<B>> {
        let codes = self.latents.ok_or_else(not_done)?;
        Ok(Generation { codes, references: self.references, features: self.features })
    }
}

/// A generation and the noise that it draws from.
#[derive(Debug)]
pub(super) struct SeededRun<B: Backend> {
    pub(super) run: Run<B>,
    pub(super) noise: KeyedNoise<B>,
}

/// Context of inference that `token` cancels.
fn context<B: Backend>(model: &TransDiff<B>, token: &CancellationToken) -> Context<B> {
    model.inference().with_cancellation(token)
}

/// Error of a generation whose result is asked for too early.
pub(super) fn not_done() -> Error {
    Error::argument("finish", "a generation that is done", "none")
}

/// One branch of multi-reference autoregression: with the class or without.
#[derive(Debug)]
struct Branch<B: Backend> {
    class: Var<B>,
    cache: PrefixCache<B>,
    features: Option<Features<B>>,
}

impl<B: Backend> Branch<B> {
    fn new(model: &TransDiff<B>, class: Var<B>) -> Self {
        Self { class, cache: model.ar().prefix_cache(), features: None }
    }

    /// Features of groups 0..=references.len(). Those that were computed before are kept.
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
