//! Multi-head attention.

use super::init::Init;
use super::linear::Linear;
use super::module::module;
use crate::autograd::{Context, Var};
use crate::tensor::Attention;
use crate::{Backend, Error, Result, Tensor};

/// Keys and values, each [B, N, H, E].
#[derive(Clone, Debug)]
pub struct KeyValue<T> {
    /// Keys.
    pub k: T,
    /// Values.
    pub v: T,
}

/// Self-attention. The dropout after the projection is part of the residual connection.
#[derive(Clone, Debug)]
pub struct SelfAttention<B: Backend> {
    qkv: Linear<B>,
    proj: Linear<B>,
    heads: usize,
}

module!(SelfAttention { "qkv" => qkv, "proj" => proj });

impl<B: Backend> SelfAttention<B> {
    /// Layers for tokens of `width` channels; `heads` divides `width`.
    pub fn new(init: &mut Init<B>, width: usize, heads: usize) -> Result<Self> {
        let qkv = Linear::new(init, width, 3 * width)?;
        Ok(Self { qkv, proj: Linear::new(init, width, width)?, heads })
    }

    /// [B, N, D] → [B, N, D], with an optional block-causal mask; see
    /// [`AttentionArgs::segment_ends`](crate::backend::AttentionArgs::segment_ends).
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>, segment_ends: Option<&[usize]>) -> Result<Var<B>> {
        let how = Attention { segment_ends: segment_ends.map(<[_]>::to_vec), dropout: ctx.next_dropout() };
        let y = self.qkv.forward(ctx, x)?.self_attention(self.heads, how)?;
        self.proj.forward(ctx, &y.reshape(x.shape())?)
    }

    /// [`forward`](Self::forward) for the tokens x [B, N, D] that follow those in `cache`, to which their keys and values are
    /// appended. The block-causal mask is that of all tokens, including the cached ones. Inference only.
    pub fn forward_cached(
        &self,
        ctx: &Context<B>,
        x: &Var<B>,
        segment_ends: &[usize],
        cache: &mut Option<KeyValue<Tensor<B>>>,
    ) -> Result<Var<B>> {
        let [q, k, v] = self.qkv.forward(ctx, x)?.split_qkv(self.heads)?;
        let joined = match cache.take() {
            Some(old) => KeyValue { k: Tensor::cat(&[&old.k, &k], 1)?, v: Tensor::cat(&[&old.v, &v], 1)? },
            None => KeyValue { k: k.copy()?, v: v.copy()? },
        };
        let how = Attention { segment_ends: Some(segment_ends.to_vec()), dropout: None };
        let (y, _) = q.attention(&joined.k, &joined.v, &how, false)?;
        *cache = Some(joined);
        self.proj.forward(ctx, &y.reshape(x.shape())?.into())
    }
}

/// Cross-attention of tokens to the conditioning.
#[derive(Clone, Debug)]
pub struct CrossAttention<B: Backend> {
    wq: Linear<B>,
    wk: Linear<B>,
    wv: Linear<B>,
    proj: Linear<B>,
    heads: usize,
}

module!(CrossAttention { "wq" => wq, "wk" => wk, "wv" => wv, "proj" => proj });

impl<B: Backend> CrossAttention<B> {
    /// Layers for tokens of `width` channels; `heads` divides `width`.
    pub fn new(init: &mut Init<B>, width: usize, heads: usize) -> Result<Self> {
        let mut linear = || Linear::new(init, width, width);
        Ok(Self { wq: linear()?, wk: linear()?, wv: linear()?, proj: linear()?, heads })
    }

    fn split(&self, x: &Var<B>) -> Result<Var<B>> {
        let &[b, n, d] = x.shape() else {
            return Err(Error::shape("cross_attention", "[B, N, D]", x.shape()));
        };
        x.reshape(&[b, n, self.heads, d / self.heads])
    }

    /// Keys and values of the conditioning c [B, Nc, D], which are constant within an AR step.
    pub fn key_value(&self, ctx: &Context<B>, c: &Var<B>) -> Result<KeyValue<Var<B>>> {
        let part = |w: &Linear<B>| self.split(&w.forward(ctx, c)?);
        Ok(KeyValue { k: part(&self.wk)?, v: part(&self.wv)? })
    }

    /// Attention of x [r·B, N, D] to the conditioning of B images, each of which serves r consecutive rows of the batch.
    pub fn forward(&self, ctx: &Context<B>, x: &Var<B>, c: &KeyValue<Var<B>>) -> Result<Var<B>> {
        let how = Attention { segment_ends: None, dropout: ctx.next_dropout() };
        let q = self.split(&self.wq.forward(ctx, x)?)?;
        let &[rows, n, h, e] = q.shape() else { unreachable!("split returns four axes") };
        let images = c.k.dim(0);
        if images == 0 || rows % images != 0 {
            let expected = format!("a multiple of {images} rows for {images} conditionings");
            return Err(Error::shape("cross_attention", expected, x.shape()));
        }
        // Queries do not interact: the r rows of an image are one longer sequence of queries.
        let y = q.reshape(&[images, rows / images * n, h, e])?.attention(&c.k, &c.v, how)?;
        self.proj.forward(ctx, &y.reshape(x.shape())?)
    }
}
