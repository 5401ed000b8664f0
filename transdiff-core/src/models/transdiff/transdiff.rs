//! The whole model.

use super::{ArTransformer, Condition, DiffusionDecoder, Features, TransDiffConfig};
use crate::autograd::Context;
use crate::nn::{Init, module};
use crate::{Backend, DType, Result, Tensor};

/// TransDiff: an autoregressive transformer and a diffusion decoder.
///
/// The model is a value: clones share memory until one of them is trained. It can be used from many threads.
#[derive(Clone, Debug)]
pub struct TransDiff<B: Backend> {
    ar: ArTransformer<B>,
    decoder: DiffusionDecoder<B>,
    config: TransDiffConfig,
    backend: B,
    dtype: DType,
}

module!(TransDiff { "" => ar, "diffdecoder.net" => decoder });

impl<B: Backend> TransDiff<B> {
    /// A model with random weights, as training starts from: linears Xavier-uniform with zero bias, embeddings
    /// N(0, 0.02²), modulation tables N(0, 1)/√D, the last layer zero.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the sizes do not fit together.
    pub fn new(backend: &B, config: &TransDiffConfig, dtype: DType, seed: u64) -> Result<Self> {
        Self::build(backend, config, dtype, &mut Init::random(backend, dtype, seed))
    }

    /// A model whose parameters have shapes and no memory, until they are set.
    pub fn placeholder(backend: &B, config: &TransDiffConfig, dtype: DType) -> Result<Self> {
        Self::build(backend, config, dtype, &mut Init::placeholder(backend, dtype))
    }

    fn build(backend: &B, config: &TransDiffConfig, dtype: DType, init: &mut Init<B>) -> Result<Self> {
        config.validate()?;
        let ar = ArTransformer::new(init, config)?;
        let decoder = DiffusionDecoder::new(init, config)?;
        Ok(Self { ar, decoder, config: config.clone(), backend: backend.clone(), dtype })
    }

    /// The sizes.
    pub fn config(&self) -> &TransDiffConfig {
        &self.config
    }

    /// The backend that holds the parameters.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Type of the parameters, in which generation computes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A pass of inference in the type of the parameters, whatever that of its inputs.
    pub(super) fn ctx(&self) -> Context<B> {
        Context::inference().with_compute_dtype(self.dtype)
    }

    /// The half that makes features.
    pub fn ar(&self) -> &ArTransformer<B> {
        &self.ar
    }

    /// The half that makes latents.
    pub fn decoder(&self) -> &DiffusionDecoder<B> {
        &self.decoder
    }

    /// Semantic features of one image per label, [B, S, D] in one step. With multi-reference autoregression,
    /// those of the first 1 + `references.len()` groups, given the latents [B, C, h, w], of any float type, of the
    /// earlier images.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for a label that is no class or too many references.
    pub fn features(&self, labels: &[usize], references: &[Tensor<B>]) -> Result<Features<B>> {
        self.features_in(&self.ctx(), labels, references)
    }

    pub(super) fn features_in(
        &self,
        ctx: &Context<B>,
        labels: &[usize],
        references: &[Tensor<B>],
    ) -> Result<Features<B>> {
        let class = self.ar.class_embedding(ctx, labels)?;
        Features::new(self.ar.features(ctx, &class, references)?.into_value())
    }

    /// Features for no class, with references or without: [1, n, D], or one an image with references.
    pub fn unconditional_features(&self, references: &[Tensor<B>]) -> Result<Features<B>> {
        self.unconditional_features_in(&self.ctx(), references)
    }

    pub(super) fn unconditional_features_in(
        &self,
        ctx: &Context<B>,
        references: &[Tensor<B>],
    ) -> Result<Features<B>> {
        let mut class = self.ar.unconditional_embedding(ctx)?;
        if let Some(first) = references.first() {
            let images = first.shape().first().copied().unwrap_or(0);
            class = class.broadcast_to(&[images, self.config.width])?;
        }
        Features::new(self.ar.features(ctx, &class, references)?.into_value())
    }

    /// What the decoder needs of `features`.
    pub fn condition(&self, features: &Features<B>) -> Result<Condition<B>> {
        self.condition_in(&self.ctx(), features)
    }

    pub(super) fn condition_in(&self, ctx: &Context<B>, features: &Features<B>) -> Result<Condition<B>> {
        let z = self.ar.conditioning(ctx, &ctx.input(features.tensor())?)?;
        self.decoder.condition(ctx, &z)
    }
}
