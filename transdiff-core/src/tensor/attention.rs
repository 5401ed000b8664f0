//! Multi-head attention.

use super::array::{Output, Tensor};
use super::optional::{finish, view_of};
use super::residual::check_dropout;
use crate::backend::{AttentionArgs, AttentionGrads, Backend, DropoutMask};
use crate::rng::Dropout;
use crate::{DType, Error, Result};

/// Mask and dropout of an attention.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// Segment ends of a block-causal mask, if there is one; see [`AttentionArgs::segment_ends`].
    pub segment_ends: Option<Vec<usize>>,
    /// Dropout of the probabilities [B, H, Nq, Nkv], whose samples are equal parts of the images.
    pub dropout: Option<Dropout>,
}

/// Tensors that an attention saves for its backward pass, beside its inputs and its result.
#[derive(Clone, Debug)]
pub struct SavedAttention<B: Backend> {
    /// Log-sum-exp of the scores per query [B, H, Nq], in the [accumulator's](crate::DType::accumulator) type.
    pub lse: Tensor<B>,
    /// The [mask](Tensor::dropout_mask) of the dropout, if there is one: drawn once, with a bit per probability, rather than
    /// in each of the passes over the scores.
    pub kept: Option<Tensor<B>>,
}

impl<B: Backend> Tensor<B> {
    /// Attention of the queries `self` [B, Nq, H, E] to k, v [B, Nkv, H, E] → [B, Nq, H, E], with scores scaled
    /// by E^-½; and what the backward pass needs, if `save` is set. k and v of one image serve all images of q.
    pub fn attention(
        &self,
        k: &Self,
        v: &Self,
        how: &Attention,
        save: bool,
    ) -> Result<(Self, Option<SavedAttention<B>>)> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let &[b, nq, h, _] = q.shape() else { unreachable!("attention_inputs checks the rank") };
        let kept = how.dropout.map(|dropout| q.dropout_mask(dropout, k.dim(1))).transpose()?;
        let mut y = Output::new(&self.backend, self.dtype, q.shape())?;
        let mut lse = self.saved_if(save, &[b, h, nq])?;
        let args = attention_args([&q, &k, &v], how, kept.as_ref());
        self.backend.attention(args, y.view(), view_of(&mut lse))?;
        let saved = finish(lse, &self.backend).map(|lse| SavedAttention { lse, kept });
        Ok((y.finish(&self.backend), saved))
    }

    /// The mask [B, H, Nq, ⌈Nkv/32⌉] of a dropout of the probabilities of an attention of the queries `self` [B, Nq, H, E] to
    /// `nkv` keys, with a bit per probability; see [`NnOps::dropout_mask`](crate::backend::NnOps::dropout_mask).
    pub fn dropout_mask(&self, dropout: Dropout, nkv: usize) -> Result<Self> {
        const OP: &str = "dropout_mask";
        check_dropout(OP, Some(dropout), self.shape())?;
        let &[b, nq, h, _] = self.shape() else {
            return Err(Error::shape(OP, "queries [B, Nq, H, E]", self.shape()));
        };
        let mut kept = Output::new(&self.backend, DType::I32, &[b, h, nq, nkv.div_ceil(32)])?;
        self.backend.dropout_mask(dropout, nkv, kept.view())?;
        Ok(kept.finish(&self.backend))
    }

    /// Gradients (dq, dk, dv) of [`attention`](Self::attention) from its result y and what it saved. dk and dv have as many
    /// images as q, even if one image of k and v serves them all.
    pub fn attention_backward(
        &self,
        k: &Self,
        v: &Self,
        how: &Attention,
        y: &Self,
        saved: &SavedAttention<B>,
        dy: &Self,
    ) -> Result<[Self; 3]> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let new = |like: &Self| Output::new(&self.backend, self.dtype, like.shape());
        let (mut dq, mut dk, mut dv) = (new(&q)?, new(&k)?, new(&v)?);
        let grads = AttentionGrads::Separate { dq: dq.view(), dk: dk.view(), dv: dv.view() };
        attention_gradients([&q, &k, &v], how, [y, dy], saved, grads)?;
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
        saved: &SavedAttention<B>,
        dy: &Self,
    ) -> Result<Self> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let &[b, n, h, e] = q.shape() else { unreachable!("attention_inputs checks the rank") };
        k.expect_shape("attention_backward", "keys", q.shape())?;
        let mut joint = Output::new(&self.backend, self.dtype, &[b, n, 3, h, e])?;
        attention_gradients([&q, &k, &v], how, [y, dy], saved, AttentionGrads::Joint(joint.view()))?;
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

/// Computes `grads` from the inputs, the result and its gradient, and what the forward pass saved.
fn attention_gradients<B: Backend>(
    [q, k, v]: [&Tensor<B>; 3],
    how: &Attention,
    [y, dy]: [&Tensor<B>; 2],
    saved: &SavedAttention<B>,
    grads: AttentionGrads<'_, B>,
) -> Result<()> {
    const OP: &str = "attention_backward";
    for other in [y, dy] {
        q.expect_dtype(OP, other)?;
    }
    let SavedAttention { lse, kept } = saved;
    q.expect_saved(OP, lse)?;
    y.expect_shape(OP, "y", q.shape())?;
    dy.expect_shape(OP, "dy", q.shape())?;
    let &[b, nq, h, _] = q.shape() else { unreachable!("attention_inputs checks the rank") };
    lse.expect_shape(OP, "lse", &[b, h, nq])?;
    if kept.is_some() != how.dropout.is_some() {
        let given = |is_some| if is_some { "a mask" } else { "none" };
        return Err(Error::argument("kept", given(how.dropout.is_some()), given(kept.is_some())));
    }
    if let Some(kept) = kept {
        kept.expect_shape(OP, "kept", &[b, h, nq, k.dim(1).div_ceil(32)])?;
        if kept.dtype() != DType::I32 {
            return Err(Error::DType { op: OP, expected: DType::I32.to_string(), got: kept.dtype() });
        }
    }
    let kept = kept.as_ref().map(Tensor::contiguous).transpose()?;
    let (y, lse, dy) = (y.contiguous()?, lse.contiguous()?, dy.contiguous()?);
    let args = attention_args([q, k, v], how, kept.as_ref());
    q.backend.attention_backward(args, y.view(), lse.view(), dy.view(), grads)
}

fn attention_args<'a, B: Backend>(
    [q, k, v]: [&'a Tensor<B>; 3],
    how: &'a Attention,
    kept: Option<&'a Tensor<B>>,
) -> AttentionArgs<'a, B> {
    debug_assert_eq!(how.dropout.is_some(), kept.is_some());
    AttentionArgs {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        scale: (q.dim(3) as f64).powf(-0.5),
        segment_ends: how.segment_ends.as_deref(),
        dropout: how
            .dropout
            .zip(kept)
            .map(|(dropout, kept)| DropoutMask { kept: kept.view(), scale: dropout.scale() }),
    }
}
