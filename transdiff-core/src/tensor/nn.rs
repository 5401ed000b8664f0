//! The fused operations of the model.

use super::{Output, Tensor};
use crate::backend::{
    Activation, AttentionArgs, AttentionGrads, Backend, LinearGrads, NormArgs, NormGrads, ViewMut,
};
use crate::rng::Dropout;
use crate::{DType, Error, HostData, HostTensor, Result};

/// Scale and shift of [`Tensor::norm_modulate`], or the gate of [`Tensor::gated_residual`]: one row a group,
/// [G, 1, D] or [1, 1, D].
#[derive(Clone, Debug)]
pub struct Modulation<B: Backend> {
    /// Factor is 1 + scale.
    pub scale: Tensor<B>,
    /// Added after the factor.
    pub shift: Tensor<B>,
}

/// Result of [`Tensor::norm_modulate`].
#[derive(Clone, Debug)]
pub struct NormOutput<B: Backend> {
    /// The output, of the input's shape.
    pub y: Tensor<B>,
    /// (mean, rstd) of each row, where it was asked for, in the [accumulator's](DType::accumulator) type.
    pub stats: Option<Tensor<B>>,
}

/// An attention without its tensors: what is fixed for a layer and a pass.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// Ends of the blocks of a block-causal mask, or none; see [`AttentionArgs::blocks`].
    pub blocks: Option<Vec<usize>>,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

/// Gradients that a backward pass computes: each is `None` where it was not wanted or there is nothing to
/// differentiate.
pub type Grad<B> = Option<Tensor<B>>;

fn check_rate(dropout: Option<Dropout>) -> Result<()> {
    match dropout {
        Some(dropout) if !dropout.is_valid() => {
            Err(Error::argument("dropout", "a rate in [0, 1)", dropout.rate))
        }
        _ => Ok(()),
    }
}

fn finish<B: Backend>(out: Option<Output<B>>, backend: &B) -> Grad<B> {
    out.map(|o| o.finish(backend))
}

fn view_of<B: Backend>(out: &mut Option<Output<B>>) -> Option<ViewMut<'_, B>> {
    out.as_mut().map(Output::view)
}

impl<B: Backend> Tensor<B> {
    fn output_if(&self, wanted: bool, shape: &[usize]) -> Result<Option<Output<B>>> {
        wanted.then(|| Output::new(&self.backend, self.dtype, shape)).transpose()
    }

    /// An output of a forward pass for its backward pass, which is not to lose digits to the type of the tensors.
    fn saved_if(&self, wanted: bool, shape: &[usize]) -> Result<Option<Output<B>>> {
        wanted.then(|| Output::new(&self.backend, self.dtype.accumulator(), shape)).transpose()
    }

    /// All axes but the last as one: [M, K].
    fn as_rows(&self, op: &'static str) -> Result<Self> {
        let Some((&last, lead)) = self.shape().split_last() else {
            return Err(Error::shape(op, "at least one axis", self.shape()));
        };
        self.contiguous()?.reshape(&[lead.iter().product(), last])
    }

    /// act(self · wᵀ + b), and the value before the activation where `save` asks for it and there is one.
    /// self [.., K], w [N, K], b `[N]` → [.., N].
    pub fn linear(&self, w: &Self, b: Option<&Self>, act: Activation, save: bool) -> Result<(Self, Grad<B>)> {
        self.expect_float("linear")?;
        self.expect_dtype("linear", w)?;
        let x = self.as_rows("linear")?;
        let &[n, k] = w.shape() else { return Err(Error::shape("linear", "a weight [N, K]", w.shape())) };
        if x.dim(1) != k {
            return Err(Error::shape("linear", format!("[.., {k}] for a weight [{n}, {k}]"), self.shape()));
        }
        if let Some(b) = b {
            self.expect_dtype("linear", b)?;
            b.expect_shape("linear", "a bias", &[n])?;
        }
        let (w, b) = (w.dense()?, b.map(Self::contiguous).transpose()?);
        let mut y = Output::new(&self.backend, self.dtype, &[x.dim(0), n])?;
        let mut pre = self.output_if(save && act != Activation::None, &[x.dim(0), n])?;
        let bias = b.as_ref().map(Self::view);
        self.backend.linear(x.view(), w.view(), bias, act, y.view(), view_of(&mut pre))?;
        let shape = [&self.shape()[..self.shape().len() - 1], &[n]].concat();
        let shaped = |out: Output<B>| out.finish(&self.backend).reshape(&shape);
        Ok((shaped(y)?, pre.map(shaped).transpose()?))
    }

    /// Gradients (dx, dw, db) of [`linear`](Self::linear) with the input `self`; `wanted` says which.
    pub fn linear_backward(
        &self,
        w: &Self,
        act: Activation,
        pre: Option<&Self>,
        dy: &Self,
        wanted: [bool; 3],
    ) -> Result<[Grad<B>; 3]> {
        const OP: &str = "linear_backward";
        self.expect_float(OP)?;
        for other in [Some(w), pre, Some(dy)].into_iter().flatten() {
            self.expect_dtype(OP, other)?;
        }
        let (x, dy) = (self.as_rows(OP)?, dy.as_rows(OP)?);
        let &[n, k] = w.shape() else { return Err(Error::shape(OP, "a weight [N, K]", w.shape())) };
        x.expect_shape(OP, "input", &[dy.dim(0), k])?;
        dy.expect_shape(OP, "dy", &[x.dim(0), n])?;
        let pre = pre.map(|p| p.as_rows(OP)).transpose()?;
        if pre.is_some() != (act != Activation::None) {
            return Err(Error::argument("pre", "a value exactly with an activation", format!("{act:?}")));
        }
        if let Some(pre) = &pre {
            pre.expect_shape(OP, "pre", dy.shape())?;
        }
        let w = w.dense()?;
        let mut dx = self.output_if(wanted[0], &[x.dim(0), k])?;
        let mut dw = self.output_if(wanted[1], &[n, k])?;
        let mut db = self.output_if(wanted[2], &[n])?;
        if let Some(dw) = &mut dw {
            dw.layout = w.dense_layout()?;
        }
        let grads = LinearGrads { dx: view_of(&mut dx), dw: view_of(&mut dw), db: view_of(&mut db) };
        self.backend.linear_backward(
            x.view(),
            w.view(),
            act,
            pre.as_ref().map(Self::view),
            dy.view(),
            grads,
        )?;
        let dx = finish(dx, &self.backend).map(|t| t.reshape(self.shape())).transpose()?;
        Ok([dx, finish(dw, &self.backend), finish(db, &self.backend)])
    }

    /// The tensor itself where its elements have no gaps, otherwise a contiguous copy.
    pub(super) fn dense(&self) -> Result<Self> {
        if self.is_dense() { Ok(self.clone()) } else { self.copy() }
    }

    /// (G, R, D) of an input of rows in groups: [G, R, D], or [.., D] as one group.
    fn groups(&self, op: &'static str, grouped: bool) -> Result<[usize; 3]> {
        match (grouped, self.shape()) {
            (true, &[g, r, d]) => Ok([g, r, d]),
            (true, other) => Err(Error::shape(op, "[G, R, D]", other)),
            (false, shape) if shape.is_empty() => Err(Error::shape(op, "at least one axis", shape)),
            (false, shape) => Ok([1, shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]]),
        }
    }

    /// A modulation as the backend takes it: [G, D] with last stride 1.
    fn per_group(&self, op: &'static str, like: &Self, [g, _, d]: [usize; 3]) -> Result<Self> {
        like.expect_dtype(op, self)?;
        let rows = self.broadcast_to(&[g, 1, d])?.reshape(&[g, d])?;
        if d > 1 && rows.layout.strides()[1] != 1 { rows.copy() } else { Ok(rows) }
    }

    /// (x̂·weight + bias)·(1 + scale) + shift, with x̂ the input normalised over its last axis.
    /// weight, bias `[D]`; with a modulation the input is [G, R, D].
    pub fn norm_modulate(
        &self,
        affine: Option<(&Self, &Self)>,
        modulation: Option<&Modulation<B>>,
        eps: f64,
        save: bool,
    ) -> Result<NormOutput<B>> {
        let prepared = NormInput::new(self, affine, modulation, eps)?;
        let [g, r, d] = prepared.dims;
        let mut y = Output::new(&self.backend, self.dtype, &[g, r, d])?;
        let mut stats = self.saved_if(save, &[g, r, 2])?;
        self.backend.norm_modulate(prepared.args(), y.view(), view_of(&mut stats))?;
        let y = y.finish(&self.backend).reshape(self.shape())?;
        Ok(NormOutput { y, stats: finish(stats, &self.backend) })
    }

    /// Gradients (dx, dweight, dbias, dscale, dshift) of [`norm_modulate`](Self::norm_modulate) from its
    /// `stats`; dscale and dshift are [G, 1, D]. `wanted`: the input's, the pair of weight and bias, the pair of
    /// scale and shift.
    pub fn norm_modulate_backward(
        &self,
        affine: Option<(&Self, &Self)>,
        modulation: Option<&Modulation<B>>,
        eps: f64,
        stats: &Self,
        dy: &Self,
        wanted: [bool; 3],
    ) -> Result<[Grad<B>; 5]> {
        const OP: &str = "norm_modulate_backward";
        self.expect_saved(OP, stats)?;
        self.expect_dtype(OP, dy)?;
        dy.expect_shape(OP, "dy", self.shape())?;
        let prepared = NormInput::new(self, affine, modulation, eps)?;
        let [g, r, d] = prepared.dims;
        stats.expect_shape(OP, "stats", &[g, r, 2])?;
        let (stats, dy) = (stats.contiguous()?, dy.contiguous()?);
        let mut dx = self.output_if(wanted[0], &[g, r, d])?;
        let affine_wanted = wanted[1] && affine.is_some();
        let (mut dw, mut db) = (self.output_if(affine_wanted, &[d])?, self.output_if(affine_wanted, &[d])?);
        let mod_wanted = wanted[2] && modulation.is_some();
        let (mut ds, mut dt) = (self.output_if(mod_wanted, &[g, d])?, self.output_if(mod_wanted, &[g, d])?);
        let grads = NormGrads {
            dx: view_of(&mut dx),
            daffine: view_of(&mut dw).zip(view_of(&mut db)),
            dmodulation: view_of(&mut ds).zip(view_of(&mut dt)),
        };
        let rows = dy.reshape(&[g, r, d])?;
        self.backend.norm_modulate_backward(prepared.args(), stats.view(), rows.view(), grads)?;
        let per_group =
            |o: Option<Output<B>>| finish(o, &self.backend).map(|t| t.reshape(&[g, 1, d])).transpose();
        let dx = finish(dx, &self.backend).map(|t| t.reshape(self.shape())).transpose()?;
        Ok([dx, finish(dw, &self.backend), finish(db, &self.backend), per_group(ds)?, per_group(dt)?])
    }

    /// self + gate · dropout(u); with a gate, [G, 1, D] or [1, 1, D], self and u are [G, R, D].
    pub fn gated_residual(&self, u: &Self, gate: Option<&Self>, dropout: Option<Dropout>) -> Result<Self> {
        const OP: &str = "gated_residual";
        self.expect_float(OP)?;
        self.expect_dtype(OP, u)?;
        u.expect_shape(OP, "u", self.shape())?;
        check_rate(dropout)?;
        let dims = u.groups(OP, gate.is_some())?;
        let gate = gate.map(|g| g.per_group(OP, self, dims)).transpose()?;
        let (x, u) = (self.contiguous()?.reshape(&dims)?, u.contiguous()?.reshape(&dims)?);
        let mut y = Output::new(&self.backend, self.dtype, &dims)?;
        let gate = gate.as_ref().map(Self::view);
        self.backend.gated_residual(x.view(), u.view(), gate, dropout, y.view())?;
        y.finish(&self.backend).reshape(self.shape())
    }

    /// Gradients (du, dgate [G, 1, D]) of [`gated_residual`](Self::gated_residual) with u = `self`.
    pub fn gated_residual_backward(
        &self,
        gate: Option<&Self>,
        dropout: Option<Dropout>,
        dy: &Self,
        gate_wanted: bool,
    ) -> Result<[Grad<B>; 2]> {
        const OP: &str = "gated_residual_backward";
        self.expect_float(OP)?;
        self.expect_dtype(OP, dy)?;
        dy.expect_shape(OP, "dy", self.shape())?;
        let dims = self.groups(OP, gate.is_some())?;
        let gate = gate.map(|g| g.per_group(OP, self, dims)).transpose()?;
        let (u, dy) = (self.contiguous()?.reshape(&dims)?, dy.contiguous()?.reshape(&dims)?);
        let mut du = Output::new(&self.backend, self.dtype, &dims)?;
        let mut dgate = self.output_if(gate_wanted && gate.is_some(), &[dims[0], dims[2]])?;
        let gate = gate.as_ref().map(Self::view);
        let (du_view, dgate_view) = (du.view(), view_of(&mut dgate));
        self.backend.gated_residual_backward(u.view(), gate, dropout, dy.view(), du_view, dgate_view)?;
        let dgate = finish(dgate, &self.backend).map(|t| t.reshape(&[dims[0], 1, dims[2]])).transpose()?;
        Ok([Some(du.finish(&self.backend).reshape(self.shape())?), dgate])
    }

    /// dropout(self).
    pub fn dropout(&self, dropout: Dropout) -> Result<Self> {
        self.expect_float("dropout")?;
        check_rate(Some(dropout))?;
        let x = self.contiguous()?;
        let mut y = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.dropout(x.view(), dropout, y.view())?;
        Ok(y.finish(&self.backend))
    }

    /// Attention of the queries `self` [B, Nq, H, E] to k, v [B, Nkv, H, E] → [B, Nq, H, E], with scores scaled
    /// by E^-½; and the log-sum-exp of each row's scores [B, H, Nq], in the [accumulator's](DType::accumulator)
    /// type, where `save` asks for it. k and v with one image serve every image of q.
    pub fn attention(&self, k: &Self, v: &Self, how: &Attention, save: bool) -> Result<(Self, Grad<B>)> {
        let [q, k, v] = self.attention_inputs(k, v, how)?;
        let &[b, nq, h, _] = q.shape() else { unreachable!("attention_inputs checks the rank") };
        let mut y = Output::new(&self.backend, self.dtype, q.shape())?;
        let mut lse = self.saved_if(save, &[b, h, nq])?;
        self.backend.attention(attention_args(&q, &k, &v, how), y.view(), view_of(&mut lse))?;
        Ok((y.finish(&self.backend), finish(lse, &self.backend)))
    }

    /// Gradients (dq, dk, dv) of [`attention`](Self::attention) from its result y and lse. dk and dv have as many
    /// images as q, even where one image of k and v serves them all.
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
        check_rate(how.dropout)?;
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
        if let Some(blocks) = &how.blocks {
            let ascending = blocks.windows(2).all(|w| w[0] < w[1]) && blocks.first() != Some(&0);
            if !ascending || blocks.last() != Some(&nkv) || nq > nkv {
                let expected = format!("ascending ends of blocks up to Nkv = {nkv} ≥ Nq = {nq}");
                return Err(Error::argument("blocks", expected, format!("{blocks:?}")));
            }
        }
        Ok(out)
    }

    /// Rows `ids` of the table `self` [V, D] → [n, D].
    pub fn embedding(&self, ids: &[usize]) -> Result<Self> {
        self.expect_float("embedding")?;
        let &[rows, d] = self.shape() else { return Err(Error::shape("embedding", "[V, D]", self.shape())) };
        let ids = self.ids(ids, rows)?;
        let table = self.contiguous()?;
        let mut out = Output::new(&self.backend, self.dtype, &[ids.numel(), d])?;
        self.backend.embedding(table.view(), ids.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Gradient of the table [rows, D] of [`embedding`](Self::embedding) from dy = `self` [n, D].
    pub fn embedding_backward(&self, ids: &[usize], rows: usize) -> Result<Self> {
        self.expect_float("embedding_backward")?;
        let &[n, d] = self.shape() else {
            return Err(Error::shape("embedding_backward", "[n, D]", self.shape()));
        };
        if n != ids.len() {
            return Err(Error::shape("embedding_backward", format!("[{}, D]", ids.len()), self.shape()));
        }
        let ids = self.ids(ids, rows)?;
        let dy = self.contiguous()?;
        let mut out = Output::new(&self.backend, self.dtype, &[rows, d])?;
        self.backend.embedding_backward(ids.view(), dy.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    fn ids(&self, ids: &[usize], rows: usize) -> Result<Self> {
        if let Some(bad) = ids.iter().find(|&&id| id >= rows) {
            return Err(Error::argument("class", format!("a number in 0..{rows}"), bad));
        }
        let data = HostData::I32(ids.iter().map(|&id| id as i32).collect());
        debug_assert_eq!(data.dtype(), DType::I32);
        Self::from_host(&self.backend, &HostTensor::new(&[ids.len()], data)?)
    }

    /// mean (self − target)², of shape [].
    pub fn mse(&self, target: &Self) -> Result<Self> {
        self.expect_float("mse")?;
        self.expect_dtype("mse", target)?;
        target.expect_shape("mse", "a target", self.shape())?;
        if self.numel() == 0 {
            return Err(Error::shape("mse", "at least one element", self.shape()));
        }
        let (a, b) = (self.contiguous()?, target.contiguous()?);
        let mut out = Output::new(&self.backend, self.dtype, &[])?;
        self.backend.mse(a.view(), b.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Gradient of [`mse`](Self::mse) for `self`, from the gradient of the loss (shape []).
    pub fn mse_backward(&self, target: &Self, dloss: &Self) -> Result<Self> {
        self.expect_float("mse_backward")?;
        self.expect_dtype("mse_backward", target)?;
        self.expect_dtype("mse_backward", dloss)?;
        dloss.expect_shape("mse_backward", "dloss", &[])?;
        target.expect_shape("mse_backward", "a target", self.shape())?;
        let (a, b) = (self.contiguous()?, target.contiguous()?);
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.mse_backward(a.view(), b.view(), dloss.view(), out.view())?;
        Ok(out.finish(&self.backend))
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
        blocks: how.blocks.as_deref(),
        dropout: how.dropout,
    }
}

/// The inputs of a norm in the layouts that backends take.
struct NormInput<B: Backend> {
    dims: [usize; 3],
    x: Tensor<B>,
    affine: Option<(Tensor<B>, Tensor<B>)>,
    modulation: Option<(Tensor<B>, Tensor<B>)>,
    eps: f64,
}

impl<B: Backend> NormInput<B> {
    fn new(
        x: &Tensor<B>,
        affine: Option<(&Tensor<B>, &Tensor<B>)>,
        modulation: Option<&Modulation<B>>,
        eps: f64,
    ) -> Result<Self> {
        const OP: &str = "norm_modulate";
        x.expect_float(OP)?;
        let dims = x.groups(OP, modulation.is_some())?;
        let vector = |t: &Tensor<B>| {
            x.expect_dtype(OP, t)?;
            t.expect_shape(OP, "weight and bias", &[dims[2]])?;
            t.contiguous()
        };
        let affine = affine.map(|(w, b)| Ok::<_, Error>((vector(w)?, vector(b)?))).transpose()?;
        let modulation = modulation
            .map(|m| Ok::<_, Error>((m.scale.per_group(OP, x, dims)?, m.shift.per_group(OP, x, dims)?)))
            .transpose()?;
        Ok(Self { dims, x: x.contiguous()?.reshape(&dims)?, affine, modulation, eps })
    }

    fn args(&self) -> NormArgs<'_, B> {
        NormArgs {
            x: self.x.view(),
            affine: self.affine.as_ref().map(|(w, b)| (w.view(), b.view())),
            modulation: self.modulation.as_ref().map(|(s, t)| (s.view(), t.view())),
            eps: self.eps,
        }
    }
}
