//! Linear layers.

use super::array::{Output, Tensor};
use super::optional::{Grad, finish, view_of};
use super::residual::check_dropout;
use crate::backend::{Activation, Backend, LinearGrads};
use crate::{Error, Result};

impl<B: Backend> Tensor<B> {
    /// All axes but the last as one: [M, K].
    fn as_rows(&self, op: &'static str) -> Result<Self> {
        let Some((&last, lead)) = self.shape().split_last() else {
            return Err(Error::shape(op, "at least one axis", self.shape()));
        };
        self.contiguous()?.reshape(&[lead.iter().product(), last])
    }

    /// All axes but the last.
    fn leading(&self) -> &[usize] {
        self.shape().split_last().map_or(&[], |(_, leading)| leading)
    }

    /// act(self · wᵀ + b), and the pre-activation, if there is an activation and `save` is set.
    /// self [.., K], w [N, K], b `[N]` → [.., N]. The samples of a dropout are equal parts of the leading axis.
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
        check_dropout("linear", act.dropout(), self.leading())?;
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
        check_dropout(OP, act.dropout(), dy.leading())?;
        let (x, dy) = (self.as_rows(OP)?, dy.as_rows(OP)?);
        let &[n, k] = w.shape() else { return Err(Error::shape(OP, "a weight [N, K]", w.shape())) };
        x.expect_shape(OP, "input", &[dy.dim(0), k])?;
        dy.expect_shape(OP, "dy", &[x.dim(0), n])?;
        let pre = pre.map(|p| p.as_rows(OP)).transpose()?;
        if pre.is_some() != (act != Activation::None) {
            let got = if pre.is_some() { "a value without one" } else { "none with one" };
            return Err(Error::argument("pre", "a value exactly with an activation", got));
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
}
