//! The diffusion decoder: from features and noise to a latent (paper §3.3, Eq. 7).

use super::TransDiffConfig;
use super::ar_transformer::EMBEDDING_STD;
use crate::autograd::{Context, Param, Var, gradient_checkpoint};
use crate::backend::UnaryOp;
use crate::nn::{
    CrossAttention, Init, KeyValue, LAYER_NORM_EPS, LayerNorm, Linear, Mlp, SelfAttention, module,
};
use crate::{Backend, Error, Result, Tensor};

/// Number of sines and cosines of the timestep embedding.
const TIME_FEATURES: usize = 256;

/// A transformer block with self-attention, cross-attention to the features, and shared adaptive norms.
#[derive(Clone, Debug)]
pub struct DecoderBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: SelfAttention<B>,
    norm2: LayerNorm<B>,
    attn2: CrossAttention<B>,
    norm3: LayerNorm<B>,
    mlp: Mlp<B>,
    scale_shift_table: Param<B>,
}

module!(DecoderBlock {
    "norm1" => norm1,
    "attn1" => attn1,
    "norm2" => norm2,
    "attn2" => attn2,
    "norm3" => norm3,
    "mlp" => mlp,
    "scale_shift_table" => scale_shift_table,
});

/// Initial values of a modulation table: N(0, 1)/√D.
fn table<B: Backend>(init: &mut Init<B>, rows: usize, width: usize) -> Result<Param<B>> {
    init.normal(&[1, rows, width], (width as f32).powf(-0.5))
}

impl<B: Backend> DecoderBlock<B> {
    fn new(init: &mut Init<B>, config: &TransDiffConfig) -> Result<Self> {
        let d = config.width;
        Ok(Self {
            norm1: LayerNorm::new(init, d)?,
            attn1: SelfAttention::new(init, d, config.heads)?,
            norm2: LayerNorm::new(init, d)?,
            attn2: CrossAttention::new(init, d, config.heads)?,
            norm3: LayerNorm::new(init, d)?,
            mlp: Mlp::new(init, d, config.mlp_ratio * d)?,
            scale_shift_table: table(init, 6, d)?,
        })
    }

    /// h [R, N, D], modulation of this block [R or 1, 6, D], keys and values of the conditioning → [copies·R, N, D]. Up to the
    /// cross-attention the copies are equal, and computed once; several need a modulation of one row.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        h: &Var<B>,
        copies: usize,
        modulation: &Var<B>,
        conditioning: &KeyValue<Var<B>>,
    ) -> Result<Var<B>> {
        let row = |i: usize| modulation.narrow(1, i, 1);
        let (shift1, scale1, gate1) = (row(0)?, row(1)?, row(2)?);
        let (shift2, scale2, gate2) = (row(3)?, row(4)?, row(5)?);
        let x = self.norm1.forward_modulated(ctx, h, Some((&scale1, &shift1)))?;
        let h = h.gated_residual(&self.attn1.forward(ctx, &x, None)?, Some(&gate1), ctx.next_dropout())?;
        let h = if copies == 1 { h } else { Var::cat(&vec![&h; copies], 0)? };
        let x = self.norm2.forward(ctx, &h)?;
        let h = h.gated_residual(&self.attn2.forward(ctx, &x, conditioning)?, None, ctx.next_dropout())?;
        let x = self.norm3.forward_modulated(ctx, &h, Some((&scale2, &shift2)))?;
        h.gated_residual(&self.mlp.forward(ctx, &x)?, Some(&gate2), ctx.next_dropout())
    }
}

#[derive(Clone, Debug)]
struct TimeEmbed<B: Backend> {
    linear_1: Linear<B>,
    linear_2: Linear<B>,
    time_proj: Linear<B>,
}

module!(TimeEmbed {
    "time_embedder.linear_1" => linear_1,
    "time_embedder.linear_2" => linear_2,
    "time_proj" => time_proj,
});

#[derive(Clone, Debug)]
struct FinalLayer<B: Backend> {
    linear: Linear<B>,
    scale_shift_table: Param<B>,
}

module!(FinalLayer { "linear" => linear, "scale_shift_table" => scale_shift_table });

/// Time embedding: everything that depends on the timestep alone.
#[derive(Clone, Debug)]
pub struct TimeEmbedding<B: Backend> {
    /// [T, D].
    pub temb: Var<B>,
    /// Shifts, scales and gates of each block, [T, 6, D]: the shared ones plus the block's table.
    pub modulations: Vec<Var<B>>,
}

/// Condition of the decoder: keys and values of every cross-attention, each [B, n, H, E], which depend on the features
/// alone.
#[derive(Clone, Debug)]
pub struct Condition<B: Backend> {
    layers: Vec<KeyValue<Var<B>>>,
}

impl<B: Backend> Condition<B> {
    /// Number of images.
    pub fn images(&self) -> usize {
        self.layers.first().map_or(0, |kv| kv.k.dim(0))
    }

    /// Keys and values of the cross-attention in block `index`.
    pub fn layer(&self, index: usize) -> &KeyValue<Var<B>> {
        &self.layers[index]
    }

    /// The condition of one image, repeated for `images` images.
    pub fn repeated(&self, images: usize) -> Result<Self> {
        self.map(|v| {
            let mut shape = v.shape().to_vec();
            shape[0] = images;
            v.broadcast_to(&shape)
        })
    }

    /// The images `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        self.map(|v| v.narrow(0, start, len))
    }

    /// The images of `self`, then those of `other`.
    pub fn and(&self, other: &Self) -> Result<Self> {
        let join = |(a, b): (&KeyValue<Var<B>>, &KeyValue<Var<B>>)| {
            Ok(KeyValue { k: Var::cat(&[&a.k, &b.k], 0)?, v: Var::cat(&[&a.v, &b.v], 0)? })
        };
        Ok(Self { layers: self.layers.iter().zip(&other.layers).map(join).collect::<Result<_>>()? })
    }

    fn map(&self, f: impl Fn(&Var<B>) -> Result<Var<B>>) -> Result<Self> {
        let layer = |kv: &KeyValue<Var<B>>| Ok(KeyValue { k: f(&kv.k)?, v: f(&kv.v)? });
        Ok(Self { layers: self.layers.iter().map(layer).collect::<Result<_>>()? })
    }
}

/// Number of times that x with this number of rows is repeated for the images of a condition.
fn repetitions<B: Backend>(rows: usize, condition: &Condition<B>, time: &TimeEmbedding<B>) -> Result<usize> {
    let images = condition.images();
    if images <= rows || rows == 0 {
        return Ok(1);
    }
    if !images.is_multiple_of(rows) || time.temb.dim(0) != 1 {
        let expected = format!("one timestep, and a divisor of the {images} images as the number of rows");
        return Err(Error::argument("x", expected, format!("{} timesteps, {rows} rows", time.temb.dim(0))));
    }
    Ok(images / rows)
}

/// The diffusion decoder. Field names are the published parameter names.
#[derive(Clone, Debug)]
pub struct DiffusionDecoder<B: Backend> {
    time_embed: TimeEmbed<B>,
    cond_embed: Linear<B>,
    input_proj: Linear<B>,
    pos_embed: Param<B>,
    res_blocks: Vec<DecoderBlock<B>>,
    final_layer: FinalLayer<B>,
    width: usize,
}

module!(DiffusionDecoder {
    "time_embed" => time_embed,
    "cond_embed" => cond_embed,
    "input_proj" => input_proj,
    "diffusion_pos_embed_learned" => pos_embed,
    "res_blocks" => res_blocks,
    "final_layer" => final_layer,
});

impl<B: Backend> DiffusionDecoder<B> {
    /// A decoder with initialised weights.
    pub fn new(init: &mut Init<B>, config: &TransDiffConfig) -> Result<Self> {
        let (d, c) = (config.width, config.latent_channels);
        Ok(Self {
            time_embed: TimeEmbed {
                linear_1: Linear::new(init, TIME_FEATURES, d)?,
                linear_2: Linear::new(init, d, d)?,
                time_proj: Linear::new(init, d, 6 * d)?,
            },
            cond_embed: Linear::new(init, d, d)?,
            input_proj: Linear::new(init, c, d)?,
            pos_embed: init.normal(&[1, config.decoder_tokens(), d], EMBEDDING_STD)?,
            res_blocks: (0..config.decoder_blocks)
                .map(|_| DecoderBlock::new(init, config))
                .collect::<Result<_>>()?,
            final_layer: FinalLayer {
                linear: Linear::zero(init, d, c)?,
                scale_shift_table: table(init, 2, d)?,
            },
            width: d,
        })
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[DecoderBlock<B>] {
        &self.res_blocks
    }

    /// Embeddings of timesteps on the 0..1000 scale.
    pub fn time(&self, ctx: &Context<B>, timesteps: &[f64]) -> Result<TimeEmbedding<B>> {
        let (temb, shared) = self.shared_time(ctx, timesteps)?;
        let of_block = |block: &DecoderBlock<B>| ctx.param(&block.scale_shift_table)?.add(&shared);
        Ok(TimeEmbedding { temb, modulations: self.res_blocks.iter().map(of_block).collect::<Result<_>>()? })
    }

    /// Modulation tables of all blocks, [L, 6, D].
    pub(super) fn tables(&self, ctx: &Context<B>) -> Result<Var<B>> {
        let tables = self.res_blocks.iter().map(|block| ctx.param(&block.scale_shift_table));
        let tables: Vec<Var<B>> = tables.collect::<Result<_>>()?;
        Var::cat(&tables.iter().collect::<Vec<_>>(), 0)
    }

    /// The part of [`time`](Self::time) that all blocks share: embeddings [T, D], and their projections to shifts, scales and
    /// gates, [T, 6, D]. The angles are computed in f64: in f32 the one with the highest frequency would lose its last digits.
    pub fn shared_time(&self, ctx: &Context<B>, timesteps: &[f64]) -> Result<(Var<B>, Var<B>)> {
        let half = TIME_FEATURES / 2;
        let frequency = |k: usize| libm::exp(-libm::log(10_000.0) * k as f64 / half as f64);
        let frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let mut waves = Vec::with_capacity(timesteps.len() * TIME_FEATURES);
        for &t in timesteps {
            waves.extend(frequencies.iter().map(|frequency| libm::cos(t * frequency)));
            waves.extend(frequencies.iter().map(|frequency| libm::sin(t * frequency)));
        }
        let weight = self.time_embed.linear_1.weight.value();
        let shape = [timesteps.len(), TIME_FEATURES];
        let waves = ctx.input(&Tensor::from_f64(weight.backend(), &shape, waves, weight.dtype())?)?;
        let hidden = self.time_embed.linear_1.forward(ctx, &waves)?.unary(UnaryOp::Silu)?;
        let temb = self.time_embed.linear_2.forward(ctx, &hidden)?;
        let modulation = self.time_embed.time_proj.forward(ctx, &temb.unary(UnaryOp::Silu)?)?;
        Ok((temb, modulation.reshape(&[timesteps.len(), 6, self.width])?))
    }

    /// Keys and values of every cross-attention for the conditioning z [B, n, D], n ≥ 1.
    pub fn condition(&self, ctx: &Context<B>, z: &Var<B>) -> Result<Condition<B>> {
        if z.shape().len() != 3 || z.dim(1) == 0 {
            return Err(Error::shape("condition", "features [B, n, D] with n ≥ 1", z.shape()));
        }
        let c = self.cond_embed.forward(ctx, z)?;
        let layers = self.res_blocks.iter().map(|b| b.attn2.key_value(ctx, &c)).collect::<Result<_>>()?;
        Ok(Condition { layers })
    }

    /// Input of the first block: latent tokens x [R, S, C], of any float type → [R, S, D] of the
    /// [accumulator](crate::DType::accumulator)'s, as the residual stream is up to the last layer.
    pub fn embed(&self, ctx: &Context<B>, x: &Var<B>) -> Result<Var<B>> {
        let ctx = ctx.wide();
        let positions = ctx.param(&self.pos_embed)?;
        self.input_proj.forward(&ctx, &x.cast(positions.value().dtype())?)?.add(&positions)
    }

    /// Velocity, of the accumulator's type, at the latent tokens x [R, S, C], of any float type. `time` has one timestep, or
    /// one per row; `condition` has B images. Each serves R/B consecutive rows, and the velocity is [R, S, C]. If there are
    /// more images than rows, and one timestep, then as if x were repeated B/R times: the velocity is [B, S, C], as guidance
    /// needs it.
    pub fn velocity(
        &self,
        ctx: &Context<B>,
        x: &Var<B>,
        time: &TimeEmbedding<B>,
        condition: &Condition<B>,
    ) -> Result<Var<B>> {
        let blocks = self.res_blocks.len();
        if time.modulations.len() != blocks {
            let expected = format!("modulations of {blocks} blocks");
            return Err(Error::argument("time", expected, time.modulations.len()));
        }
        let mut h = self.embed(ctx, x)?;
        for ((block, kv), modulation) in self.res_blocks.iter().zip(&condition.layers).zip(&time.modulations)
        {
            ctx.check_cancelled()?;
            let (block, copies) = (block.clone(), repetitions(h.dim(0), condition, time)?);
            h = gradient_checkpoint(ctx, &[&h, modulation, &kv.k, &kv.v], move |ctx, inputs| {
                let kv = KeyValue { k: inputs[2].clone(), v: inputs[3].clone() };
                block.forward(ctx, &inputs[0], copies, &inputs[1], &kv)
            })?;
        }
        self.finish(ctx, &h, time)
    }

    /// The final layer: h [R, S, D] → [R, S, C].
    fn finish(&self, ctx: &Context<B>, h: &Var<B>, time: &TimeEmbedding<B>) -> Result<Var<B>> {
        let ctx = ctx.wide();
        let table = ctx.param(&self.final_layer.scale_shift_table)?;
        let temb = time.temb.reshape(&[time.temb.dim(0), 1, self.width])?;
        let rows = table.add(&temb.cast(table.value().dtype())?)?;
        let (shift, scale) = (rows.narrow(1, 0, 1)?, rows.narrow(1, 1, 1)?);
        let x = h.norm_modulate(None, Some((&scale, &shift)), LAYER_NORM_EPS)?;
        self.final_layer.linear.forward(&ctx, &x)
    }
}
