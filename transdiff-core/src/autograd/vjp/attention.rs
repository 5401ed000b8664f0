//! Multi-head attention.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record, recorded};
use crate::tensor::{Attention, SavedAttention};
use crate::{Backend, Error, Result, Tensor};

type Grads<B> = Result<Vec<Option<Tensor<B>>>>;

/// Saves queries, keys, values, the result, and the log-sum-exp and the dropout mask of each row; not the probabilities.
struct AttentionOp<B: Backend> {
    q: Tensor<B>,
    k: Tensor<B>,
    v: Tensor<B>,
    how: Attention,
    y: Tensor<B>,
    saved: SavedAttention<B>,
}

impl<B: Backend> Vjp<B> for AttentionOp<B> {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        let Self { q, k, v, how, y, saved } = &*self;
        let [dq, dk, dv] = q.attention_backward(k, v, how, y, saved, &dy)?;
        let dk = dk.sum_to(self.k.shape())?;
        let dv = dv.sum_to(self.v.shape())?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }
}

/// [`AttentionOp`] for queries, keys and values that are thirds of one tensor.
struct SelfAttentionOp<B: Backend>(AttentionOp<B>);

impl<B: Backend> Vjp<B> for SelfAttentionOp<B> {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        let &[b, n, h, e] = dy.shape() else { unreachable!("the result of an attention has four axes") };
        let AttentionOp { q, k, v, how, y, saved } = &self.0;
        let joint = q.self_attention_backward(k, v, how, y, saved, &dy)?;
        Ok(vec![Some(joint.reshape(&[b, n, 3 * h * e])?)])
    }
}

/// The thirds [B, N, H, E] of the output [B, N, 3·H·E] of a qkv layer, laid out (3, heads, head size).
fn thirds<B: Backend>(qkv: &Tensor<B>, heads: usize) -> Result<[Tensor<B>; 3]> {
    let &[b, n, width] = qkv.shape() else {
        return Err(Error::shape("self_attention", "[B, N, 3·H·E]", qkv.shape()));
    };
    let e = width / (3 * heads);
    let split = qkv.reshape(&[b, n, 3, heads, e])?;
    let third = |i: usize| split.narrow(2, i, 1)?.reshape(&[b, n, heads, e]);
    Ok([third(0)?, third(1)?, third(2)?])
}

impl<B: Backend> Var<B> {
    /// Attention of the queries `self` [B, Nq, H, E] to k, v [B or 1, Nkv, H, E] → [B, Nq, H, E].
    pub fn attention(&self, k: &Self, v: &Self, how: Attention) -> Result<Self> {
        let inputs = [self, k, v];
        let (y, saved) = self.value().attention(k.value(), v.value(), &how, recorded(&inputs))?;
        record(y.clone(), &inputs, || AttentionOp {
            q: self.value().clone(),
            k: k.value().clone(),
            v: v.value().clone(),
            how,
            y,
            saved: saved.expect("a recorded attention saves"),
        })
    }

    /// Self-attention from the joint projection `self` [B, N, 3·H·E], laid out (3, heads, head size)
    /// → [B, N, H, E].
    pub fn self_attention(&self, heads: usize, how: Attention) -> Result<Self> {
        let [q, k, v] = thirds(self.value(), heads)?;
        let (y, saved) = q.attention(&k, &v, &how, recorded(&[self]))?;
        record(y.clone(), &[self], || {
            let saved = saved.expect("a recorded attention saves");
            SelfAttentionOp(AttentionOp { q, k, v, how, y, saved })
        })
    }

    /// The thirds [B, N, H, E] of the joint projection `self`, not recorded: for cached generation.
    pub fn split_qkv(&self, heads: usize) -> Result<[Tensor<B>; 3]> {
        thirds(self.value(), heads)
    }
}
