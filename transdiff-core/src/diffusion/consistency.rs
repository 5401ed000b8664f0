//! Sampling from a consistency function.

use super::{Interpolant, Interval, NoiseSource, Sampler, SolverState, Timesteps, VelocityField};
use crate::{Backend, Result};

/// Sampler of a model that was distilled into a consistency function f(x, t) = x̂₀(F(x, t), x), which predicts the end of the
/// trajectory through x (Song et al., arXiv 2303.01469, Algorithm 1): x ← α(t + Δt) x̂₀ + σ(t + Δt) z with z ~ N(0, 1), and x ← x̂₀ in
/// the last step. One evaluation per step; guidance is part of the model. The field's velocity is F.
#[derive(Clone, Debug, PartialEq)]
pub struct Consistency {
    pub(super) timesteps: Timesteps,
    interpolant: Interpolant,
}

impl Consistency {
    /// Default number of steps.
    pub const STEPS: usize = 2;

    /// The sampler; `interpolant` is that of the model.
    pub fn new(timesteps: Timesteps, interpolant: Interpolant) -> Self {
        Self { timesteps, interpolant }
    }
}

impl<B: Backend> Sampler<B> for Consistency {
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
        let Interval { t, next, is_final, .. } = self.timesteps.interval(i);
        let v = state.evaluate(field, t, 1)?;
        let denoised = self.interpolant.denoised(t).apply(&v, &state.x)?;
        state.x = match is_final {
            true => denoised,
            false => {
                let kept = denoised.affine(self.interpolant.alpha(next), 0.0)?;
                state.with_noise(kept, noise, i, self.interpolant.sigma(next))?
            }
        };
        Ok(())
    }
}
