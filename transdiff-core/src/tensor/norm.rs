//! LayerNorm with modulation.

use super::array::{Output, Tensor};
use super::optional::{Grad, finish, view_of};
use crate::backend::{Backend, NormArgs, NormGrads};
use crate::{Error, Result};

/// Scale and shift of [`Tensor::norm_modulate`]: one row per group, [G, 1, D], or shared, [1, 1, D].
#[derive(Clone, Debug)]
pub struct Modulation<B: Backend> {
    /// The factor is 1 + scale.
    pub scale: Tensor<B>,
    /// Added to the scaled value.
    pub shift: Tensor<B>,
}

/// Result of [`Tensor::norm_modulate`].
#[derive(Clone, Debug)]
pub struct NormOutput<B: Backend> {
    /// The output, of the input's shape.
    pub y: Tensor<B>,
    /// (mean, rstd) per row, if it is to be saved, in the [accumulator's](crate::DType::accumulator) type.
    pub stats: Option<Tensor<B>>,
}

impl<B: Backend> Tensor<B> {
    /// (G, R, D) of an input: grouped [G, R, D], or [.., D] as one group.
    pub(super) fn groups(&self, op: &'static str, grouped: bool) -> Result<[usize; 3]> {
        match (grouped, self.shape()) {
            (true, &[g, r, d]) => Ok([g, r, d]),
            (true, other) => Err(Error::shape(op, "[G, R, D]", other)),
            (false, shape) if shape.is_empty() => Err(Error::shape(op, "at least one axis", shape)),
            (false, shape) => Ok([1, shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]]),
        }
    }

    /// A modulation in the layout that backends take: [G, D] with last stride 1.
    pub(super) fn per_group(&self, op: &'static str, like: &Self, [g, _, d]: [usize; 3]) -> Result<Self> {
        like.expect_dtype(op, self)?;
        let rows = self.broadcast_to(&[g, 1, d])?.reshape(&[g, d])?;
        if d > 1 && rows.layout.strides()[1] != 1 { rows.copy() } else { Ok(rows) }
    }

    /// (x̂·weight + bias)·(1 + scale) + shift, with x̂ the input normalised over its last axis.
    /// weight, bias `[D]`; with a modulation the input is [G, R, D]. The output is of the type of weight, bias and
    /// modulation; the input may be of its [accumulator](crate::DType::accumulator)'s.
    pub fn norm_modulate(
        &self,
        affine: Option<(&Self, &Self)>,
        modulation: Option<&Modulation<B>>,
        eps: f64,
        save: bool,
    ) -> Result<NormOutput<B>> {
        let prepared = NormInput::new(self, affine, modulation, eps)?;
        let [g, r, d] = prepared.dims;
        let mut y = Output::new(&self.backend, prepared.like().dtype, &[g, r, d])?;
        let mut stats = self.saved_if(save, &[g, r, 2])?;
        self.backend.norm_modulate(prepared.args(), y.view(), view_of(&mut stats))?;
        let y = y.finish(&self.backend).reshape(self.shape())?;
        Ok(NormOutput { y, stats: finish(stats, &self.backend) })
    }

    /// Gradients (dx, dweight, dbias, dscale, dshift) of [`norm_modulate`](Self::norm_modulate) from its
    /// `stats`; dscale and dshift are [G, 1, D]. `residual`, of the shape and type of the input, is added to dx. `wanted`: of the
    /// input, of weight and bias, of scale and shift.
    pub fn norm_modulate_backward(
        &self,
        affine: Option<(&Self, &Self)>,
        modulation: Option<&Modulation<B>>,
        eps: f64,
        stats: &Self,
        (dy, residual): (&Self, Option<&Self>),
        wanted: [bool; 3],
    ) -> Result<[Grad<B>; 5]> {
        const OP: &str = "norm_modulate_backward";
        self.expect_saved(OP, stats)?;
        let prepared = NormInput::new(self, affine, modulation, eps)?;
        prepared.like().expect_dtype(OP, dy)?;
        dy.expect_shape(OP, "dy", self.shape())?;
        let [g, r, d] = prepared.dims;
        let rows = |x: &Self| {
            self.expect_dtype(OP, x)?;
            x.expect_shape(OP, "residual", self.shape())?;
            x.contiguous()?.reshape(&[g, r, d])
        };
        let residual = residual.filter(|_| wanted[0]).map(rows).transpose()?;
        stats.expect_shape(OP, "stats", &[g, r, 2])?;
        let (stats, dy) = (stats.contiguous()?, dy.contiguous()?);
        let mut dx = self.output_if(wanted[0], &[g, r, d])?;
        let affine_wanted = wanted[1] && affine.is_some();
        let (mut dw, mut db) = (dy.output_if(affine_wanted, &[d])?, dy.output_if(affine_wanted, &[d])?);
        let mod_wanted = wanted[2] && modulation.is_some();
        let (mut ds, mut dt) = (dy.output_if(mod_wanted, &[g, d])?, dy.output_if(mod_wanted, &[g, d])?);
        let grads = NormGrads {
            dx: view_of(&mut dx),
            residual: residual.as_ref().map(Self::view),
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
}

/// Inputs of a norm in the layouts that backends take.
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
        let like = affine.map(|(w, _)| w).or(modulation.map(|m| &m.scale)).unwrap_or(x);
        like.expect_float(OP)?;
        like.expect_stream(OP, x)?;
        let vector = |t: &Tensor<B>| {
            like.expect_dtype(OP, t)?;
            t.expect_shape(OP, "weight and bias", &[dims[2]])?;
            t.contiguous()
        };
        let affine = affine.map(|(w, b)| Ok::<_, Error>((vector(w)?, vector(b)?))).transpose()?;
        let modulation = modulation
            .map(|m| Ok::<_, Error>((m.scale.per_group(OP, like, dims)?, m.shift.per_group(OP, like, dims)?)))
            .transpose()?;
        Ok(Self { dims, x: x.contiguous()?.reshape(&dims)?, affine, modulation, eps })
    }

    /// A tensor of the type of the output.
    fn like(&self) -> &Tensor<B> {
        let parameters = self.affine.as_ref().or(self.modulation.as_ref());
        parameters.map_or(&self.x, |(first, _)| first)
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
