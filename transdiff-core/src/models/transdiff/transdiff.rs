//! The whole model.

use super::{ArTransformer, Condition, DiffusionDecoder, TransDiffConfig, infer_config};
use crate::autograd::Context;
use crate::checkpoint::WeightView;
use crate::models::{Features, Model};
use crate::nn::{Init, Module, module};
use crate::{Backend, DType, Precision, Result, Tensor};

/// TransDiff: an autoregressive transformer and a diffusion decoder.
///
/// A value: clones share memory until one of them is trained. Many threads may use one.
#[derive(Clone, Debug)]
pub struct TransDiff<B: Backend> {
    ar: ArTransformer<B>,
    decoder: DiffusionDecoder<B>,
    config: TransDiffConfig,
    backend: B,
    precision: Precision,
}

module!(TransDiff { "" => ar, "diffdecoder.net" => decoder });

impl<B: Backend> Model<B> for TransDiff<B> {
    type Config = TransDiffConfig;

    const CONFIG_KEY: &'static str = TransDiffConfig::METADATA_KEY;

    fn placeholder(backend: &B, config: &TransDiffConfig, precision: impl Into<Precision>) -> Result<Self> {
        let precision = precision.into();
        let init = &mut Init::placeholder(backend, precision.dtype());
        let mut model = Self { precision, ..Self::build(backend, config, precision.dtype(), init)? };
        if precision.is_int8() {
            let params = model.params_mut().into_iter();
            let quantized = params.filter(|(name, _)| TransDiffConfig::is_quantized(name));
            quantized.for_each(|(_, param)| param.quantize());
        }
        Ok(model)
    }

    fn check_config(config: &TransDiffConfig, tensors: &WeightView<'_>) -> Result<()> {
        config.validate()?;
        infer_config::check_depth(config, tensors)
    }

    fn config(&self) -> &TransDiffConfig {
        &self.config
    }

    fn backend(&self) -> &B {
        &self.backend
    }

    /// Type of the parameters, in which generation computes.
    fn dtype(&self) -> DType {
        self.precision.dtype()
    }
}

impl<B: Backend> TransDiff<B> {
    /// Number format in which generation computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A model with random weights, as training starts from: linears Xavier-uniform with zero bias, embeddings
    /// N(0, 0.02²), modulation tables N(0, 1)/√D, the final layer zero.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together.
    pub fn new(backend: &B, config: &TransDiffConfig, dtype: DType, seed: u64) -> Result<Self> {
        Self::build(backend, config, dtype, &mut Init::random(backend, dtype, seed))
    }

    fn build(backend: &B, config: &TransDiffConfig, dtype: DType, init: &mut Init<B>) -> Result<Self> {
        config.validate()?;
        let ar = ArTransformer::new(init, config)?;
        let decoder = DiffusionDecoder::new(init, config)?;
        Ok(Self { ar, decoder, config: config.clone(), backend: backend.clone(), precision: dtype.into() })
    }

    /// A model of the sizes `config` initialised from the pretrained weights of this one: every tensor whose name and
    /// shape agree is taken over, the others are initialised as in [`new`](Self::new) with `seed`. A mask token of one
    /// row is repeated where several are needed (1-step to multi-reference, paper §3.5.2). Also returns the names of the
    /// tensors that were not taken over whole.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together.
    pub fn initialise(&self, config: &TransDiffConfig, seed: u64) -> Result<(Self, Vec<String>)> {
        let mut model = Self::new(&self.backend, config, self.dtype(), seed)?;
        let pretrained: std::collections::BTreeMap<String, Tensor<B>> =
            self.params().into_iter().map(|(name, p)| (name, p.value().clone())).collect();
        let mut new = Vec::new();
        for (name, param) in model.params_mut() {
            match pretrained.get(&name) {
                Some(old) if old.shape() == param.value().shape() => param.set(old)?,
                Some(old)
                    if name == "mask_token" && old.dim(1) == 1 && old.dim(2) == param.value().dim(2) =>
                {
                    let repeated = old.broadcast_to(param.value().shape())?;
                    param.set(&repeated)?;
                    new.push(name);
                }
                _ => new.push(name),
            }
        }
        Ok((model, new))
    }

    /// The same weights as a model of `config`, which has the same sizes.
    pub(super) fn with_config(self, config: TransDiffConfig) -> Self {
        Self { config, ..self }
    }

    /// The autoregressive transformer.
    pub fn ar(&self) -> &ArTransformer<B> {
        &self.ar
    }

    /// The diffusion decoder.
    pub fn decoder(&self) -> &DiffusionDecoder<B> {
        &self.decoder
    }

    /// Context of inference in the type of the parameters, whatever that of the inputs.
    pub fn inference(&self) -> Context<B> {
        Context::inference().with_compute_dtype(self.dtype())
    }

    /// Semantic features of one image per label, [B, S, D] in one step. With multi-reference autoregression, those of the
    /// first 1 + `references.len()` groups, given the latents [B, C, h, w], of any float type, of the earlier AR steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a label that is no class or too many references;
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn features(
        &self,
        ctx: &Context<B>,
        labels: &[usize],
        references: &[Tensor<B>],
    ) -> Result<Features<B>> {
        let class = self.ar.class_embedding(ctx, labels)?;
        Features::new(self.ar.features(ctx, &class, references)?.into_value())
    }

    /// Unconditional features: [1, n, D] without references, [B, n, D] for the references of B images.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub fn unconditional_features(&self, ctx: &Context<B>, references: &[Tensor<B>]) -> Result<Features<B>> {
        let mut class = self.ar.unconditional_embedding(ctx)?;
        if let Some(first) = references.first() {
            let images = first.shape().first().copied().unwrap_or(0);
            class = class.broadcast_to(&[images, self.config.width])?;
        }
        Features::new(self.ar.features(ctx, &class, references)?.into_value())
    }

    /// Condition of the decoder: keys and values of its cross-attentions to `features`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for features of another width or number.
    pub fn condition(&self, ctx: &Context<B>, features: &Features<B>) -> Result<Condition<B>> {
        let z = self.ar.conditioning(ctx, &ctx.input(features.tensor())?)?;
        self.decoder.condition(ctx, &z)
    }
}
