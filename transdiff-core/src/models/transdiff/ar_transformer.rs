//! The autoregressive transformer: from a class, and earlier images, to semantic features (paper §3.4–3.5).

use super::{Mode, TransDiffConfig, patchify};
use crate::autograd::{Context, Param, Var, gradient_checkpoint};
use crate::nn::{Init, KeyValue, LayerNorm, Linear, Mlp, SelfAttention, module};
use crate::{Backend, Error, Result, Tensor};

/// Standard deviation of embeddings, masks and positions at the start of training.
pub(super) const EMBEDDING_STD: f32 = 0.02;

/// A pre-norm transformer block: x += attn(LN x), x += mlp(LN x).
#[derive(Clone, Debug)]
pub struct EncoderBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn: SelfAttention<B>,
    norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

module!(EncoderBlock { "norm1" => norm1, "attn" => attn, "norm2" => norm2, "mlp" => mlp });

impl<B: Backend> EncoderBlock<B> {
    fn new(init: &mut Init<B>, config: &TransDiffConfig) -> Result<Self> {
        let d = config.width;
        Ok(Self {
            norm1: LayerNorm::new(init, d)?,
            attn: SelfAttention::new(init, d, config.heads)?,
            norm2: LayerNorm::new(init, d)?,
            mlp: Mlp::new(init, d, config.mlp_ratio * d)?,
        })
    }

    /// [B, N, D] → [B, N, D], with the segment ends of an optional block-causal mask.
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>, segment_ends: Option<&[usize]>) -> Result<Var<B>> {
        let attended = self.attn.forward(ctx, &self.norm1.forward(ctx, x)?, segment_ends)?;
        self.after_attention(ctx, x, &attended)
    }

    fn forward_cached(
        &self,
        ctx: &Context<B>,
        x: &Var<B>,
        segment_ends: &[usize],
        cache: &mut Option<KeyValue<Tensor<B>>>,
    ) -> Result<Var<B>> {
        let attended = self.attn.forward_cached(ctx, &self.norm1.forward(ctx, x)?, segment_ends, cache)?;
        self.after_attention(ctx, x, &attended)
    }

    fn after_attention(&self, ctx: &Context<B>, x: &Var<B>, attended: &Var<B>) -> Result<Var<B>> {
        let x = x.gated_residual(attended, None, ctx.next_dropout())?;
        let hidden = self.mlp.forward(ctx, &self.norm2.forward(ctx, &x)?)?;
        x.gated_residual(&hidden, None, ctx.next_dropout())
    }
}

/// Cache of the keys and values of the tokens so far, per block. Attention is block-causal, so they are final.
#[derive(Clone, Debug)]
pub struct PrefixCache<B: Backend> {
    layers: Vec<Option<KeyValue<Tensor<B>>>>,
    groups: usize,
}

impl<B: Backend> PrefixCache<B> {
    /// Number of feature groups that the cache holds.
    pub fn groups(&self) -> usize {
        self.groups
    }
}

/// The autoregressive transformer. Field names are the published parameter names.
#[derive(Clone, Debug)]
pub struct ArTransformer<B: Backend> {
    class_emb: Param<B>,
    fake_latent: Param<B>,
    mask_token: Param<B>,
    z_proj: Linear<B>,
    z_proj_ln: LayerNorm<B>,
    encoder_pos_embed: Param<B>,
    encoder_blocks: Vec<EncoderBlock<B>>,
    encoder_norm: LayerNorm<B>,
    diffusion_pos_embed: Param<B>,
    config: TransDiffConfig,
}

module!(ArTransformer {
    "class_emb.weight" => class_emb,
    "fake_latent" => fake_latent,
    "mask_token" => mask_token,
    "z_proj" => z_proj,
    "z_proj_ln" => z_proj_ln,
    "encoder_pos_embed_learned" => encoder_pos_embed,
    "encoder_blocks" => encoder_blocks,
    "encoder_norm" => encoder_norm,
    "diffusion_pos_embed_learned" => diffusion_pos_embed,
});

impl<B: Backend> ArTransformer<B> {
    /// A transformer with initialised weights.
    pub fn new(init: &mut Init<B>, config: &TransDiffConfig) -> Result<Self> {
        let (d, s) = (config.width, config.feature_tokens);
        Ok(Self {
            class_emb: init.normal(&[config.classes, d], EMBEDDING_STD)?,
            fake_latent: init.normal(&[1, d], EMBEDDING_STD)?,
            mask_token: init.normal(&[1, config.mask_rows(), d], EMBEDDING_STD)?,
            z_proj: Linear::new(init, config.reference_features(), d)?,
            z_proj_ln: LayerNorm::new(init, d)?,
            encoder_pos_embed: init.normal(&[1, config.buffer_size + s, d], EMBEDDING_STD)?,
            encoder_blocks: (0..config.encoder_blocks)
                .map(|_| EncoderBlock::new(init, config))
                .collect::<Result<_>>()?,
            encoder_norm: LayerNorm::new(init, d)?,
            diffusion_pos_embed: init.normal(&[1, s, d], EMBEDDING_STD)?,
            config: config.clone(),
        })
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[EncoderBlock<B>] {
        &self.encoder_blocks
    }

    /// Embeddings [B, D] of `labels`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a label that is no class.
    pub fn class_embedding(&self, ctx: &Context<B>, labels: &[usize]) -> Result<Var<B>> {
        self.config.check_labels(labels)?;
        ctx.param(&self.class_emb)?.embedding(labels)
    }

    /// Unconditional embedding [1, D].
    pub fn unconditional_embedding(&self, ctx: &Context<B>) -> Result<Var<B>> {
        ctx.param(&self.fake_latent)
    }

    /// Embeddings [B, D] of `labels`, with the unconditional one where `dropped`.
    pub fn dropped_embedding(&self, ctx: &Context<B>, labels: &[usize], dropped: &[bool]) -> Result<Var<B>> {
        if labels.len() != dropped.len() {
            return Err(Error::argument("dropped", format!("{} values", labels.len()), dropped.len()));
        }
        let class = self.class_embedding(ctx, labels)?;
        let column = |f: fn(bool) -> f64| {
            let values = dropped.iter().map(|&d| f(d)).collect();
            let value = class.value();
            Tensor::from_f64(value.backend(), &[labels.len(), 1], values, value.dtype()).map(Var::from)
        };
        let kept = class.mul(&column(|d| f64::from(!d))?)?;
        kept.add(&self.unconditional_embedding(ctx)?.mul(&column(f64::from)?)?)
    }

    /// Segment ends of the block-causal mask for the first `groups` groups; `None` for 1-step models.
    pub fn segment_ends(&self, groups: usize) -> Option<Vec<usize>> {
        match self.config.mode {
            Mode::OneStep => None,
            Mode::MultiReference { .. } => {
                let end = |k| self.config.buffer_size + k * self.config.group_tokens();
                Some((0..=groups).map(end).collect())
            }
        }
    }

    /// Tokens of a reference, latent [B, C, h, w] → [B, g, D].
    fn reference_tokens(&self, ctx: &Context<B>, latent: &Tensor<B>) -> Result<Var<B>> {
        let batch = latent.shape().first().copied().unwrap_or(0);
        latent.expect_shape("reference", "a latent", &self.config.latent_shape(batch))?;
        self.z_proj.forward(ctx, &ctx.input(&patchify(latent, self.config.reference_patch())?)?)
    }

    /// Input of the first block, of the [accumulator](crate::DType::accumulator)'s type, as the residual stream is up to the
    /// last norm: adds the positions from `start` on and normalises.
    fn positioned(&self, ctx: &Context<B>, tokens: &[&Var<B>], start: usize) -> Result<Var<B>> {
        let ctx = ctx.wide();
        let sequence = Var::cat(tokens, 1)?;
        let positions = ctx.param(&self.encoder_pos_embed)?.narrow(1, start, sequence.dim(1))?;
        let sequence = sequence.cast(positions.value().dtype())?;
        self.z_proj_ln.forward(&ctx, &sequence.add(&positions)?)
    }

    /// Class tokens and the mask tokens of the first group.
    fn opening_tokens(&self, ctx: &Context<B>, class: &Var<B>) -> Result<[Var<B>; 2]> {
        let &[b, d] = class.shape() else { return Err(Error::shape("class", "[B, D]", class.shape())) };
        let buffer = class.reshape(&[b, 1, d])?.broadcast_to(&[b, self.config.buffer_size, d])?;
        let masks = ctx.param(&self.mask_token)?.broadcast_to(&[b, self.config.group_tokens(), d])?;
        Ok([buffer, masks])
    }

    /// Input of the first block: class [B, D] and the latents [B, C, h, w] of the images before
    /// each group but the first → [B, buffer + (1 + references)·g, D] (paper Eq. 9 and 11).
    pub fn embed(&self, ctx: &Context<B>, class: &Var<B>, references: &[Tensor<B>]) -> Result<Var<B>> {
        if references.len() >= self.config.groups() {
            let expected = format!("fewer than {} latents", self.config.groups());
            return Err(Error::argument("references", expected, references.len()));
        }
        let mut parts = self.opening_tokens(ctx, class)?.to_vec();
        for latent in references {
            parts.push(self.reference_tokens(ctx, latent)?);
        }
        self.positioned(ctx, &parts.iter().collect::<Vec<_>>(), 0)
    }

    /// Semantic features [B, (1 + references)·g, D], before their positions are added.
    pub fn features(&self, ctx: &Context<B>, class: &Var<B>, references: &[Tensor<B>]) -> Result<Var<B>> {
        let mut h = self.embed(ctx, class, references)?;
        let segment_ends = self.segment_ends(1 + references.len());
        for block in &self.encoder_blocks {
            ctx.check_cancelled()?;
            let (block, segment_ends) = (block.clone(), segment_ends.clone());
            h = gradient_checkpoint(ctx, &[&h], move |ctx, inputs| {
                block.forward(ctx, &inputs[0], segment_ends.as_deref())
            })?;
        }
        let h = self.encoder_norm.forward(ctx, &h)?;
        h.narrow(1, self.config.buffer_size, h.dim(1) - self.config.buffer_size)
    }

    /// An empty cache.
    pub fn prefix_cache(&self) -> PrefixCache<B> {
        PrefixCache { layers: vec![None; self.encoder_blocks.len()], groups: 0 }
    }

    /// Features [B, g, D] of the next group, computing its tokens alone: the first needs no `reference`, each
    /// later one takes the latent [B, C, h, w] of the image before it. Inference only.
    pub fn next_features(
        &self,
        ctx: &Context<B>,
        class: &Var<B>,
        reference: Option<&Tensor<B>>,
        cache: &mut PrefixCache<B>,
    ) -> Result<Var<B>> {
        let group = cache.groups;
        if group >= self.config.groups() || reference.is_some() != (group > 0) {
            let expected = format!("no latent for group 0, one for groups 1..{}", self.config.groups());
            let got = if reference.is_some() { "a latent" } else { "none" };
            return Err(Error::argument("reference", expected, format!("{got} for group {group}")));
        }
        let Some(segment_ends) = self.segment_ends(group + 1) else {
            return Err(Error::config("mode", "multi-reference autoregression", "one step"));
        };
        let mut h = match reference {
            None => {
                let [buffer, masks] = self.opening_tokens(ctx, class)?;
                self.positioned(ctx, &[&buffer, &masks], 0)?
            }
            Some(latent) => {
                self.positioned(ctx, &[&self.reference_tokens(ctx, latent)?], segment_ends[group])?
            }
        };
        for (block, cache) in self.encoder_blocks.iter().zip(&mut cache.layers) {
            ctx.check_cancelled()?;
            h = block.forward_cached(ctx, &h, &segment_ends, cache)?;
        }
        cache.groups += 1;
        let g = self.config.group_tokens();
        self.encoder_norm.forward(ctx, &h.narrow(1, h.dim(1) - g, g)?)
    }

    /// Input of the decoder's cross-attention: features [B, n, D] plus the first n diffusion positions.
    pub fn conditioning(&self, ctx: &Context<B>, features: &Var<B>) -> Result<Var<B>> {
        let &[_, n, _] = features.shape() else {
            return Err(Error::shape("features", "[B, n, D]", features.shape()));
        };
        features.add(&ctx.param(&self.diffusion_pos_embed)?.narrow(1, 0, n)?)
    }
}
