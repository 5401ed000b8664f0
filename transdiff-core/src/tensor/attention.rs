//! Multi-head attention.

use super::array::{Output, Tensor};
use super::optional::{Grad, finish, view_of};
use super::residual::check_dropout;
use crate::backend::{AttentionArgs, AttentionGrads, Backend};
use crate::rng::Dropout;
use crate::{Error, Result};

/// Mask and dropout of an attention.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// Segment ends of a block-causal mask, if there is one; see [`AttentionArgs::segment_ends`].
    pub segment_ends: Option<Vec<usize>>,
    /// Dropout of the probabilities, whose samples are equal parts of the images.
    pub dropout: Option<Dropout>,
}

impl<B: Backend> Tensor<B> {
    /// Attention of the queries `self` [B, Nq, H, E] to k, v [B, Nkv, H, E] → [B, Nq, H, E], with scores scaled
    /// by E^-½; and the log-sum-exp of the scores per query [B, H, Nq], in the [accumulator's](crate::DType::accumulator)
    /// type, if `save` is set. k and v of one image serve all images of q.
    pub fn attention(&self, k: &Self, v: &Self, how: &Attention, save: bool) -> Result<(Self, Grad<B>)> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let &[b, nq, h, _] = q.shape() else { unreachable!("attention_inputs checks the rank") };
        let mut y = Output::new(&self.backend, self.dtype, q.shape())?;
        let mut lse = self.saved_if(save, &[b, h, nq])?;
        self.backend.attention(attention_args(&q, &k, &v, how), y.view(), view_of(&mut lse))?;
        Ok((y.finish(&self.backend), finish(lse, &self.backend)))
    }

    /// Gradients (dq, dk, dv) of [`attention`](Self::attention) from its result y and lse. dk and dv have as many
    /// images as q, even if one image of k and v serves them all.
    pub fn attention_backward(
        &self,
        k: &Self,
        v: &Self,
        how: &Attention,
        y: &Self,
        lse: &Self,
        dy: &Self,
    ) -> Result<[Self; 3]> {
        const OP: &str = "attention_backward";
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        for other in [y, dy] {
            self.expect_dtype(OP, other)?;
        }
        self.expect_saved(OP, lse)?;
        y.expect_shape(OP, "y", q.shape())?;
        dy.expect_shape(OP, "dy", q.shape())?;
        lse.expect_shape(OP, "lse", &[q.dim(0), q.dim(2), q.dim(1)])?;
        let (y, lse, dy) = (y.contiguous()?, lse.contiguous()?, dy.contiguous()?);
        let new = |shape: &[usize]| Output::new(&self.backend, self.dtype, shape);
        let (mut dq, mut dk, mut dv) = (new(q.shape())?, new(k.shape())?, new(v.shape())?);
        let grads = AttentionGrads { dq: dq.view(), dk: dk.view(), dv: dv.view() };
        let args = attention_args(&q, &k, &v, how);
        self.backend.attention_backward(args, y.view(), lse.view(), dy.view(), grads)?;
        Ok([dq, dk, dv].map(|o| o.finish(&self.backend)))
    }

    fn attention_inputs(&self, k: &Self, v: &Self, how: &Attention) -> Result<[Self; 3]> {
        const OP: &str = "attention";
        self.expect_float(OP)?;
        check_dropout(OP, how.dropout, self.shape())?;
        let &[b, nq, h, e] = self.shape() else {
            return Err(Error::shape(OP, "queries [B, Nq, H, E]", self.shape()));
        };
        let nkv = k.shape().get(1).copied().unwrap_or(0);
        let mut out = [self.clone(), k.broadcast_to(&[b, nkv, h, e])?, v.broadcast_to(&[b, nkv, h, e])?];
        for t in &mut out {
            self.expect_dtype(OP, t)?;
            if e > 1 && t.layout.strides()[3] != 1 {
                *t = t.copy()?;
            }
        }
        if let Some(ends) = &how.segment_ends {
            let ascending = ends.windows(2).all(|w| w[0] < w[1]) && ends.first() != Some(&0);
            if !ascending || ends.last() != Some(&nkv) || nq > nkv {
                let expected = format!("ascending segment ends up to Nkv = {nkv} ≥ Nq = {nq}");
                return Err(Error::argument("segment_ends", expected, format!("{ends:?}")));
            }
        }
        Ok(out)
    }
}

fn attention_args<'a, B: Backend>(
    q: &'a Tensor<B>,
    k: &'a Tensor<B>,
    v: &'a Tensor<B>,
    how: &'a Attention,
) -> AttentionArgs<'a, B> {
    AttentionArgs {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        scale: (q.dim(3) as f64).powf(-0.5),
        segment_ends: how.segment_ends.as_deref(),
        dropout: how.dropout,
    }
}
