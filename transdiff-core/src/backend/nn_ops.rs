//! Fused operations of models, each with its backward pass.

use super::storage::{Storage, View, ViewMut};
use crate::rng::Dropout;
use crate::{Layout, Result};

/// Activation of a linear layer's output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The identity.
    None,
    /// x·Φ(x) with the exact (erf) Φ.
    Gelu,
    /// [`Gelu`](Self::Gelu), then [`Dropout`], whose element is the row-major index in the output, and whose number of samples
    /// divides that of the rows.
    GeluDropout(Dropout),
}

impl Activation {
    /// The dropout, if there is one.
    pub fn dropout(self) -> Option<Dropout> {
        match self {
            Self::GeluDropout(dropout) => Some(dropout),
            Self::None | Self::Gelu => None,
        }
    }
}

/// Outputs of [`NnOps::linear_backward`]; `None` where a gradient is not wanted.
#[derive(Debug)]
pub struct LinearGrads<'a, S: Storage> {
    /// [M, K], contiguous.
    pub dx: Option<ViewMut<'a, S>>,
    /// [N, K] without gaps, in the memory order of the weight.
    pub dw: Option<ViewMut<'a, S>>,
    /// `[N]`, contiguous.
    pub db: Option<ViewMut<'a, S>>,
}

/// Arguments of [`NnOps::norm_modulate`]. G groups (images) of R rows (tokens) of D channels. All have the type of the
/// output but x, which may be of its [accumulator](crate::DType::accumulator)'s.
#[derive(Debug)]
pub struct NormArgs<'a, S: Storage> {
    /// [G, R, D], contiguous.
    pub x: View<'a, S>,
    /// Weight and bias, each `[D]`, contiguous.
    pub affine: Option<(View<'a, S>, View<'a, S>)>,
    /// Scale and shift, each [G, D]; the last stride is 1, the first is arbitrary.
    pub modulation: Option<(View<'a, S>, View<'a, S>)>,
    /// Added to the variance.
    pub eps: f64,
}

impl<S: Storage> Clone for NormArgs<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for NormArgs<'_, S> {}

/// Outputs of [`NnOps::norm_modulate_backward`], all contiguous, and a term of one of them; `None` where a gradient is not
/// wanted.
#[derive(Debug)]
pub struct NormGrads<'a, S: Storage> {
    /// [G, R, D].
    pub dx: Option<ViewMut<'a, S>>,
    /// Added to dx, [G, R, D], contiguous, of its type: the gradient of x from other operations.
    pub residual: Option<View<'a, S>>,
    /// Gradients of weight and bias, each `[D]`.
    pub daffine: Option<(ViewMut<'a, S>, ViewMut<'a, S>)>,
    /// Gradients of scale and shift, each [G, D].
    pub dmodulation: Option<(ViewMut<'a, S>, ViewMut<'a, S>)>,
}

/// A drawn [`Dropout`] of an attention's probabilities: the elements that it keeps, and their factor.
#[derive(Debug)]
pub struct DropoutMask<'a, S: Storage> {
    /// Output of [`NnOps::dropout_mask`]: [B, H, Nq, ⌈Nkv/32⌉] contiguous, i32.
    pub kept: View<'a, S>,
    /// Factor of the kept elements; see [`Dropout::scale`].
    pub scale: f32,
}

impl<S: Storage> Clone for DropoutMask<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for DropoutMask<'_, S> {}

/// Arguments of [`NnOps::attention`]. B images, H heads of size E, Nq queries, Nkv keys.
#[derive(Debug)]
pub struct AttentionArgs<'a, S: Storage> {
    /// Queries [B, Nq, H, E]; the last stride is 1, the others are arbitrary.
    pub q: View<'a, S>,
    /// Keys [B, Nkv, H, E], with the same condition on strides.
    pub k: View<'a, S>,
    /// Values [B, Nkv, H, E], with the same condition on strides.
    pub v: View<'a, S>,
    /// Factor of the scores.
    pub scale: f64,
    /// Block-causal mask as the ascending ends of the segments of keys, the last of which is Nkv ≥ Nq: query i, at key
    /// position i + Nkv − Nq, attends to its own segment and all earlier ones. `None`: no mask.
    pub segment_ends: Option<&'a [usize]>,
    /// Dropout of the probabilities.
    pub dropout: Option<DropoutMask<'a, S>>,
}

impl<S: Storage> Clone for AttentionArgs<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for AttentionArgs<'_, S> {}

/// Outputs of [`NnOps::attention_backward`]; the last stride is 1.
#[derive(Debug)]
pub enum AttentionGrads<'a, S: Storage> {
    /// One output for each input, in its shape.
    Separate {
        /// [B, Nq, H, E].
        dq: ViewMut<'a, S>,
        /// [B, Nkv, H, E].
        dk: ViewMut<'a, S>,
        /// [B, Nkv, H, E].
        dv: ViewMut<'a, S>,
    },
    /// One output [B, N, 3, H, E] for queries, keys and values that are thirds of one tensor.
    Joint(ViewMut<'a, S>),
}

/// Layouts [B, N, H, E] of the thirds of a layout [B, N, 3, H, E]; see [`AttentionGrads::Joint`].
pub fn qkv_layouts(joint: &Layout) -> [Layout; 3] {
    let (shape, strides) = (joint.shape(), joint.strides());
    let without = |sizes: &[usize]| [sizes[0], sizes[1], sizes[3], sizes[4]];
    [0, 1, 2].map(|i| Layout::new(&without(shape), &without(strides), joint.offset() + i * strides[2]))
}

/// Visible length: number of leading keys that query `i` of `nq` attends to under a block-causal mask; see
/// [`AttentionArgs::segment_ends`].
pub fn visible_len(segment_ends: &[usize], nq: usize, i: usize) -> usize {
    let nkv = segment_ends.last().copied().unwrap_or(0);
    let position = i + nkv - nq;
    segment_ends[segment_ends.partition_point(|&end| end <= position)]
}

/// Fused operations. Forward methods write the tensors saved for the backward pass to outputs that are `None` in
/// inference. The tensors of a call have one type, except for those documented to have the accumulator's, which is f32 for
/// bf16. Internal sums are at least as wide as f32.
pub trait NnOps: Storage {
    /// y ← act(x wᵀ + b); pre ← x wᵀ + b (the pre-activation) if it is given, as in training with an activation.
    /// x [M, K] contiguous; w [N, K] without gaps in either memory order, or as
    /// [prepared](Storage::prepare_weight); b `[N]`; y, pre [M, N] contiguous.
    fn linear(
        &self,
        x: View<'_, Self>,
        w: View<'_, Self>,
        b: Option<View<'_, Self>>,
        act: Activation,
        y: ViewMut<'_, Self>,
        pre: Option<ViewMut<'_, Self>>,
    ) -> Result<()>;

    /// With g = act′(pre) · dy (g = dy without an activation): dx ← g w, dw ← gᵀ x, db ← Σ_M g.
    /// `pre` is present exactly when `act` is not `None`; x, dy contiguous.
    fn linear_backward(
        &self,
        x: View<'_, Self>,
        w: View<'_, Self>,
        act: Activation,
        pre: Option<View<'_, Self>>,
        dy: View<'_, Self>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()>;

    /// y ← (x̂·weight + bias)·(1 + scale) + shift with x̂ = (x − mean)·rstd over the last axis.
    /// stats ← (mean, rstd) per row, [G, R, 2] contiguous, of the [accumulator's](crate::DType::accumulator) type, if it
    /// is given; y [G, R, D] contiguous.
    fn norm_modulate(
        &self,
        args: NormArgs<'_, Self>,
        y: ViewMut<'_, Self>,
        stats: Option<ViewMut<'_, Self>>,
    ) -> Result<()>;

    /// Gradients of [`norm_modulate`](Self::norm_modulate) from its `stats` and dy [G, R, D] contiguous, each of the type
    /// of its input.
    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: View<'_, Self>,
        dy: View<'_, Self>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()>;

    /// y ← x + gate · dropout(u). x, u, y [G, R, D] contiguous; gate [G, D] with last stride 1, or 1 if absent.
    /// x and y are of one type: that of u and gate, or its [accumulator](crate::DType::accumulator)'s.
    /// The [`Dropout`]'s element is the row-major index in u. Its number of samples divides the number of elements, and
    /// G if there is a gate.
    fn gated_residual(
        &self,
        x: View<'_, Self>,
        u: View<'_, Self>,
        gate: Option<View<'_, Self>>,
        dropout: Option<Dropout>,
        y: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// du ← gate · dropout(dy), dgate ← Σ_R dropout(u) · dy [G, D] contiguous; `dgate` is present only with a
    /// gate. (dx is dy.) dy is of the type of x and y, all others are of the type of u.
    fn gated_residual_backward(
        &self,
        u: View<'_, Self>,
        gate: Option<View<'_, Self>>,
        dropout: Option<Dropout>,
        dy: View<'_, Self>,
        du: ViewMut<'_, Self>,
        dgate: Option<ViewMut<'_, Self>>,
    ) -> Result<()>;

    /// Draws a [`Dropout`] of an attention's probabilities [B, H, Nq, Nkv], whose samples are equal parts of the images: bit i of
    /// `kept[b, h, q, j]` ← whether it keeps the element [b, h, q, 32·j + i], and 0 for elements past the last.
    /// kept [B, H, Nq, ⌈Nkv/32⌉] contiguous, i32.
    fn dropout_mask(&self, dropout: Dropout, nkv: usize, kept: ViewMut<'_, Self>) -> Result<()>;

    /// y ← dropout(softmax(scale · q kᵀ)) v, y [B, Nq, H, E] contiguous; lse ← ln Σ exp(scale · q kᵀ) per query,
    /// [B, H, Nq] contiguous, of the [accumulator's](crate::DType::accumulator) type, if it is given. Tiled
    /// (FlashAttention-style): the score matrix is never materialised. There are no fully masked rows, except that y is 0
    /// if Nkv = 0.
    fn attention(
        &self,
        args: AttentionArgs<'_, Self>,
        y: ViewMut<'_, Self>,
        lse: Option<ViewMut<'_, Self>>,
    ) -> Result<()>;

    /// Gradients of [`attention`](Self::attention) from its y and lse and dy [B, Nq, H, E] contiguous, with the dropout mask of
    /// the forward pass.
    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: View<'_, Self>,
        lse: View<'_, Self>,
        dy: View<'_, Self>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()>;

    /// `out[i] ← table[ids[i]]`: table [V, D] contiguous, ids `[n]` i32 contiguous, checked by core to be in 0..V, out [n, D] contiguous.
    fn embedding(&self, table: View<'_, Self>, ids: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;

    /// `dtable[v]` ← Σ over the i with `ids[i] = v`, in ascending order, of `dy[i]`.
    fn embedding_backward(
        &self,
        ids: View<'_, Self>,
        dy: View<'_, Self>,
        dtable: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// loss ← mean (a − b)², one element; a, b contiguous and not empty. Summed in f64 on the CPU.
    fn mse(&self, a: View<'_, Self>, b: View<'_, Self>, loss: ViewMut<'_, Self>) -> Result<()>;

    /// da ← 2 (a − b) · dloss / n.
    fn mse_backward(
        &self,
        a: View<'_, Self>,
        b: View<'_, Self>,
        dloss: View<'_, Self>,
        da: ViewMut<'_, Self>,
    ) -> Result<()>;
}
