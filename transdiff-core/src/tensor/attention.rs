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
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let new = |like: &Self| Output::new(&self.backend, self.dtype, like.shape());
        let (mut dq, mut dk, mut dv) = (new(&q)?, new(&k)?, new(&v)?);
        let grads = AttentionGrads::Separate { dq: dq.view(), dk: dk.view(), dv: dv.view() };
        attention_gradients([&q, &k, &v], how, [y, lse, dy], grads)?;
        Ok([dq, dk, dv].map(|o| o.finish(&self.backend)))
    }

    /// Gradients of [`attention`](Self::attention) as thirds of one tensor [B, N, 3, H, E], for q, k and v that are thirds of one
    /// tensor, too.
    pub fn self_attention_backward(
        &self,
        k: &Self,
        v: &Self,
        how: &Attention,
        y: &Self,
        lse: &Self,
        dy: &Self,
    ) -> Result<Self> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let &[b, n, h, e] = q.shape() else { unreachable!("attention_inputs checks the rank") };
        k.expect_shape("attention_backward", "keys", q.shape())?;
        let mut joint = Output::new(&self.backend, self.dtype, &[b, n, 3, h, e])?;
        attention_gradients([&q, &k, &v], how, [y, lse, dy], AttentionGrads::Joint(joint.view()))?;
        Ok(joint.finish(&self.backend))
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

/// Computes `grads` from the inputs, the results and the gradient of the result.
fn attention_gradients<B: Backend>(
    [q, k, v]: [&Tensor<B>; 3],
    how: &Attention,
    [y, lse, dy]: [&Tensor<B>; 3],
    grads: AttentionGrads<'_, B>,
) -> Result<()> {
    const OP: &str = "attention_backward";
    for other in [y, dy] {
        q.expect_dtype(OP, other)?;
    }
    q.expect_saved(OP, lse)?;
    y.expect_shape(OP, "y", q.shape())?;
    dy.expect_shape(OP, "dy", q.shape())?;
    lse.expect_shape(OP, "lse", &[q.dim(0), q.dim(2), q.dim(1)])?;
    let (y, lse, dy) = (y.contiguous()?, lse.contiguous()?, dy.contiguous()?);
    q.backend.attention_backward(attention_args(q, k, v, how), y.view(), lse.view(), dy.view(), grads)
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
