//! What an optimiser does to tensors, in place.

use super::Tensor;
use crate::backend::{AdamW, AdamWSlot, Backend};
use crate::{Error, Result};

/// One parameter of an optimiser step.
#[derive(Debug)]
pub struct Slot<'a, B: Backend> {
    /// The parameter.
    pub param: &'a mut Tensor<B>,
    /// Its gradient; `None` is zero.
    pub grad: Option<&'a Tensor<B>>,
    /// First moment.
    pub m: &'a mut Tensor<B>,
    /// Second moment.
    pub v: &'a mut Tensor<B>,
    /// Weight decay.
    pub weight_decay: f64,
}

impl<B: Backend> Tensor<B> {
    /// One step of AdamW over many parameters; see [`crate::backend::TrainOps::adamw_step`].
    pub fn adamw_step(backend: &B, hyper: &AdamW, slots: &mut [Slot<'_, B>]) -> Result<()> {
        let mut grads = Vec::with_capacity(slots.len());
        for slot in slots.iter() {
            slot.param.expect_float("adamw_step")?;
            for other in [Some(&*slot.m), Some(&*slot.v), slot.grad].into_iter().flatten() {
                slot.param.expect_dtype("adamw_step", other)?;
                other.expect_shape("adamw_step", "a tensor like the parameter", slot.param.shape())?;
            }
            grads.push(slot.grad.map(|g| g.ordered_like(slot.param)).transpose()?);
        }
        let mut out = Vec::with_capacity(slots.len());
        for (slot, grad) in slots.iter_mut().zip(&grads) {
            for state in [&mut *slot.m, &mut *slot.v] {
                *state = state.ordered_like(slot.param)?;
            }
            out.push(AdamWSlot {
                param: slot.param.make_mut()?,
                grad: grad.as_ref().map(Tensor::view),
                m: slot.m.make_mut()?,
                v: slot.v.make_mut()?,
                weight_decay: slot.weight_decay,
            });
        }
        backend.adamw_step(hyper, &mut out)
    }

    /// average ← rate · average + (1 − rate) · param, for each pair.
    pub fn ema_step(backend: &B, rate: f64, pairs: &mut [(&mut Self, &Self)]) -> Result<()> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(Error::argument("rate", "a number in [0, 1]", rate));
        }
        let params: Vec<Self> = pairs.iter().map(|(_, param)| param.dense()).collect::<Result<_>>()?;
        let mut out = Vec::with_capacity(pairs.len());
        for ((average, _), param) in pairs.iter_mut().zip(&params) {
            param.expect_float("ema_step")?;
            param.expect_dtype("ema_step", average)?;
            **average = average.ordered_like(param)?;
            out.push((average.make_mut()?, param.view()));
        }
        backend.ema_step(rate, &mut out)
    }

    /// Σ x² over all elements of `tensors`.
    pub fn squared_norm(backend: &B, tensors: &[&Self]) -> Result<f64> {
        tensors.iter().try_for_each(|t| t.expect_float("squared_norm"))?;
        let dense: Vec<Self> = tensors.iter().map(|t| t.dense()).collect::<Result<_>>()?;
        let views: Vec<_> = dense.iter().map(Self::view).collect();
        backend.squared_norm(&views)
    }

    /// Whether all elements are finite. Computed on the device as the squared norm, which is not finite if an element is
    /// not; elements whose squares overflow its accumulator count as not finite.
    ///
    /// # Errors
    /// [`Error::DType`] for a type that is not a float type, and those of the backend.
    pub fn is_finite(&self) -> Result<bool> {
        Ok(Self::squared_norm(&self.backend, &[self])?.is_finite())
    }
}
