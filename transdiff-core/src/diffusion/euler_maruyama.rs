//! The paper's sampler: Euler–Maruyama on the reverse SDE, with two scales (Appendix F, Eq. 16–18).

use super::scales::Scales;
use super::{
    Interpolant, Interval, LinearCombination, NoiseSource, Sampler, SolverState, Timesteps, VelocityField,
};
use crate::{Backend, Result};

/// x ← x + s₀ · drift · Δt + s₁ · √(2t) · √|Δt| · N(0, 1) in every step but the final one, and x ← x + drift · Δt in the
/// final one, with drift = v − ½ g² score, g² = 2t ([`Interpolant::drift`]).
///
/// s₀ = s₁ = 1 is Euler–Maruyama itself (Eq. 17); [`Preset`](super::Preset) has the paper's values. With s₁ = 0 no
/// noise is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct EulerMaruyama {
    pub(super) timesteps: Timesteps,
    interpolant: Interpolant,
    scales: Scales,
}

impl EulerMaruyama {
    /// The sampler with drift scale s₀ and noise scale s₁.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) unless both scales are finite and at least 0.
    pub fn new(
        timesteps: Timesteps,
        interpolant: Interpolant,
        drift_scale: f64,
        noise_scale: f64,
    ) -> Result<Self> {
        let scales = Scales::new(drift_scale, noise_scale)?;
        Ok(Self { timesteps, interpolant, scales })
    }

    /// s₀, the factor of the drift.
    pub fn drift_scale(&self) -> f64 {
        self.scales.drift
    }

    /// s₁, the factor of the injected noise.
    pub fn noise_scale(&self) -> f64 {
        self.scales.noise
    }
}

impl<B: Backend> Sampler<B> for EulerMaruyama {
    fn timesteps(&self) -> &Timesteps {
        &self.timesteps
    }

    fn interpolant(&self) -> Interpolant {
        self.interpolant
    }

    fn step(
        &self,
        i: usize,
        state: &mut SolverState<B>,
        field: &dyn VelocityField<B>,
        noise: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        let Interval { t, dt, is_final, .. } = self.timesteps.interval(i);
        let v = state.evaluate(field, t, 1)?;
        let (s0, s1) = if is_final { (1.0, 0.0) } else { (self.scales.drift, self.scales.noise) };
        let drift = self.interpolant.drift(t);
        // x + s₀ (a v + b x) Δt, the factors of v and x collected in f64.
        let moved =
            LinearCombination { v: s0 * drift.v * dt, x: 1.0 + s0 * drift.x * dt }.apply(&v, &state.x)?;
        let deviation = s1 * self.interpolant.diffusion(t) * dt.abs().sqrt();
        state.x = state.with_noise(moved, noise, i, deviation)?;
        Ok(())
    }
}
