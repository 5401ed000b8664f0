//! Classifier-free guidance: a field around a field.

use super::{ConditionalField, VelocityField};
use crate::{Backend, Error, Result, Tensor};

/// Guidance scale, and the interval of times in which guidance acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    scale: f64,
    low: f64,
    high: f64,
}

impl Guidance {
    /// No guidance: scale 1.
    pub const NONE: Self = Self { scale: 1.0, low: 0.0, high: 1.0 };

    /// Guidance of `scale` at all times.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `scale` is finite and at least 1.
    pub fn new(scale: f64) -> Result<Self> {
        Self::within(scale, 0.0, 1.0)
    }

    /// Guidance of `scale` at times low ≤ t ≤ high, and none at other times.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `scale` is finite and at least 1, and 0 ≤ low ≤ high ≤ 1.
    pub fn within(scale: f64, low: f64, high: f64) -> Result<Self> {
        if !(scale.is_finite() && scale >= 1.0) {
            return Err(Error::argument("guidance", "a finite number, at least 1", scale));
        }
        if !(0.0..=1.0).contains(&high) {
            return Err(Error::argument("guidance_high", "within [0, 1]", high));
        }
        if !(0.0..=high).contains(&low) {
            return Err(Error::argument("guidance_low", format!("within [0, {high}]"), low));
        }
        Ok(Self { scale, low, high })
    }

    /// Guidance scale w.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// First and last time at which guidance acts.
    pub fn interval(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Returns `true` if the unconditional branch is needed at time `t`.
    pub fn is_active(&self, t: f64) -> bool {
        self.scale > 1.0 && self.low <= t && t <= self.high
    }
}

/// Field under guidance: v_u + w (v_c − v_u) where guidance is active, else v_c, without evaluating the unconditional
/// branch.
///
/// The published implementation guides drifts, d = d_u + w (d_c − d_u). Both branches see the same x, and a drift is a(t) v +
/// b(t) x, so d_u + w (d_c − d_u) = a (v_u + w (v_c − v_u)) + b x: guiding the velocity is the same, and works
/// for deterministic solvers too.
#[derive(Debug)]
pub struct GuidedField<'a, F: ?Sized> {
    field: &'a F,
    guidance: Guidance,
}

impl<'a, F: ?Sized> GuidedField<'a, F> {
    /// `field` under `guidance`.
    pub fn new(field: &'a F, guidance: Guidance) -> Self {
        Self { field, guidance }
    }
}

impl<B: Backend, F: ConditionalField<B> + ?Sized> VelocityField<B> for GuidedField<'_, F> {
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        if !self.guidance.is_active(t) {
            return self.field.conditional(x, t);
        }
        let (conditional, unconditional) = self.field.both(x, t)?;
        conditional.sub(&unconditional)?.affine(self.guidance.scale, 0.0)?.add(&unconditional)
    }
}
