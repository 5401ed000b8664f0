//! Optimiser steps, in place.

use super::array::Tensor;
use crate::backend::{AdamW, AdamWArgs, Backend};
use crate::{Error, Result};

/// One parameter of an AdamW step, with its gradient and moments, of its shape and type, except where another type is
/// documented.
#[derive(Debug)]
pub struct AdamWParam<'a, B: Backend> {
    /// The parameter.
    pub param: &'a mut Tensor<B>,
    /// Its gradient, of any float type; `None` is zero.
    pub grad: Option<&'a Tensor<B>>,
    /// First moment.
    pub m: &'a mut Tensor<B>,
    /// Second moment.
    pub v: &'a mut Tensor<B>,
    /// Copy of the new parameter in a narrower type, whose [accumulator](crate::DType::accumulator)'s type is the parameter's.
    pub cast: Option<&'a mut Tensor<B>>,
    /// Weight decay.
    pub weight_decay: f64,
}

impl<B: Backend> Tensor<B> {
    /// One step of AdamW over many parameters; see [`crate::backend::TrainOps::adamw_step`].
    pub fn adamw_step(backend: &B, hyper: &AdamW, params: &mut [AdamWParam<'_, B>]) -> Result<()> {
        const OP: &str = "adamw_step";
        let mut grads = Vec::with_capacity(params.len());
        for entry in params.iter() {
            let param = &*entry.param;
            param.expect_float(OP)?;
            let moments = [Some(&*entry.m), Some(&*entry.v)];
            for other in moments.into_iter().chain([entry.grad, entry.cast.as_deref()]).flatten() {
                other.expect_shape(OP, "a tensor like the parameter", param.shape())?;
            }
            moments.into_iter().flatten().try_for_each(|moment| param.expect_dtype(OP, moment))?;
            entry.cast.iter().try_for_each(|cast| cast.expect_saved(OP, param))?;
            if let Some(cast) = entry.cast.as_deref().filter(|cast| cast.dtype == param.dtype) {
                let expected = format!("a type narrower than {}", param.dtype);
                return Err(Error::DType { op: OP, expected, got: cast.dtype });
            }
            let ordered = |grad: &Self| {
                let accumulates = grad.dtype.accumulator() == param.dtype;
                if accumulates { grad.clone() } else { grad.cast(param.dtype)? }.ordered_like(param)
            };
            grads.push(entry.grad.map(ordered).transpose()?);
        }
        let mut out = Vec::with_capacity(params.len());
        for (entry, grad) in params.iter_mut().zip(&grads) {
            for state in [&mut *entry.m, &mut *entry.v].into_iter().chain(entry.cast.as_deref_mut()) {
                *state = state.ordered_like(entry.param)?;
            }
            out.push(AdamWArgs {
                param: entry.param.make_mut()?,
                grad: grad.as_ref().map(Tensor::view),
                m: entry.m.make_mut()?,
                v: entry.v.make_mut()?,
                cast: entry.cast.as_deref_mut().map(Tensor::make_mut).transpose()?,
                weight_decay: entry.weight_decay,
            });
        }
        backend.adamw_step(hyper, &mut out)
    }

    /// average ← decay · average + (1 − decay) · param, for each pair.
    pub fn ema_step(backend: &B, decay: f64, pairs: &mut [(&mut Self, &Self)]) -> Result<()> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(Error::argument("decay", "a number in [0, 1]", decay));
        }
        let params: Vec<Self> = pairs.iter().map(|(_, param)| param.dense()).collect::<Result<_>>()?;
        let mut out = Vec::with_capacity(pairs.len());
        for ((average, _), param) in pairs.iter_mut().zip(&params) {
            param.expect_float("ema_step")?;
            param.expect_dtype("ema_step", average)?;
            **average = average.ordered_like(param)?;
            out.push((average.make_mut()?, param.view()));
        }
        backend.ema_step(decay, &mut out)
    }

    /// Σ x² over all elements of `tensors`: the sums of the tensors, added in their order.
    pub fn squared_norm(backend: &B, tensors: &[&Self]) -> Result<f64> {
        Ok(Self::squared_norms(backend, tensors)?.into_iter().sum())
    }

    /// Σ x² over the elements of each tensor; see [`crate::backend::TrainOps::squared_norms`].
    pub fn squared_norms(backend: &B, tensors: &[&Self]) -> Result<Vec<f64>> {
        tensors.iter().try_for_each(|t| t.expect_float("squared_norm"))?;
        let dense: Vec<Self> = tensors.iter().map(|t| t.dense()).collect::<Result<_>>()?;
        let views: Vec<_> = dense.iter().map(Self::view).collect();
        backend.squared_norms(&views)
    }

    /// Returns whether all elements are finite. Computed on the device as the squared norm, which is not finite if an element is
    /// not; elements whose squares overflow its accumulator count as not finite.
    ///
    /// # Errors
    /// [`Error::DType`] for a type that is not a float type, and those of the backend.
    pub fn is_finite(&self) -> Result<bool> {
        Ok(Self::squared_norm(&self.backend, &[self])?.is_finite())
    }
}
