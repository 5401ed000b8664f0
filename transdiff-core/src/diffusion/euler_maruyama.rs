//! The paper's sampler: Euler–Maruyama on the reverse SDE, with two scales (Appendix F, Eq. 16–18).

use super::{
    ArStep, Interpolant, LinearCombination, NoiseSource, Observer, Sampler, Timesteps, VelocityField, drive,
};
use crate::{Backend, Error, Result, Tensor};

/// x ← x + s₀ · drift · Δt + s₁ · √(2t) · √|Δt| · N(0, 1) in every step but the last, and x ← x + drift · Δt in
/// the last, with drift = v − ½ g² score, g² = 2t ([`Interpolant::drift`]).
///
/// s₀ = s₁ = 1 is Euler–Maruyama itself (Eq. 17); the paper's values are in [`Preset`](super::Preset). With
/// s₁ = 0 the noise source is never asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EulerMaruyama {
    timesteps: Timesteps,
    interpolant: Interpolant,
    drift_scale: f64,
    noise_scale: f64,
}

impl EulerMaruyama {
    /// The sampler with `drift_scale` s₀ and `noise_scale` s₁.
    ///
    /// # Errors
    /// [`Error::Argument`] unless both scales are finite and at least 0.
    pub fn new(
        timesteps: Timesteps,
        interpolant: Interpolant,
        drift_scale: f64,
        noise_scale: f64,
    ) -> Result<Self> {
        for (name, scale) in [("drift_scale", drift_scale), ("noise_scale", noise_scale)] {
            if !(scale.is_finite() && scale >= 0.0) {
                return Err(Error::argument(name, "a finite number, at least 0", scale));
            }
        }
        Ok(Self { timesteps, interpolant, drift_scale, noise_scale })
    }

    /// The times of the steps.
    pub fn timesteps(&self) -> Timesteps {
        self.timesteps
    }

    /// s₀, the factor of the drift.
    pub fn drift_scale(&self) -> f64 {
        self.drift_scale
    }

    /// s₁, the factor of the injected noise.
    pub fn noise_scale(&self) -> f64 {
        self.noise_scale
    }
}

impl<B: Backend> Sampler<B> for EulerMaruyama {
    fn timesteps(&self) -> Timesteps {
        self.timesteps
    }

    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        drive(self.timesteps, self.interpolant, field, x, ar_step, observer, |step, x, v| {
            let (s0, s1) = if step.is_last { (1.0, 0.0) } else { (self.drift_scale, self.noise_scale) };
            let drift = self.interpolant.drift(step.t);
            // x + s₀ (a v + b x) Δt, the factors of v and x gathered in f64.
            let moved = LinearCombination { v: s0 * drift.v * step.dt, x: 1.0 + s0 * drift.x * step.dt }
                .apply(v, x)?;
            if s1 == 0.0 {
                return Ok(moved);
            }
            let draw = noise.injected(ar_step, step.index, x.shape())?;
            draw.expect_shape("EulerMaruyama", "noise", x.shape())?;
            let strength = s1 * self.interpolant.diffusion(step.t) * step.dt.abs().sqrt();
            moved.add(&draw.cast(x.dtype())?.affine(strength, 0.0)?)
        })
    }
}
