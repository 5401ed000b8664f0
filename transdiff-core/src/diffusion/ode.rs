//! Deterministic solvers of the flow ODE dx = v dt (paper Eq. 3).
//!
//! They run best on [`Timesteps::uniform`]: on the paper's timesteps the final step keeps its length of 0.04, so more
//! steps stop paying once they are shorter than that (the remaining error is of the order of 0.04² for Euler, 0.04³ for
//! Heun).

use super::state::{advance, evaluate};
use super::{
    Interpolant, Interval, LinearCombination, NoiseSource, Sampler, SolverState, Timesteps, VelocityField,
};
use crate::{Backend, Error, Result};

/// x ← x + v(x, t) Δt: order 1, one evaluation per step. Draws no noise.
///
/// With [extrapolation](Self::extrapolated) κ, from the third step on x ← α(t + Δt) (x̂₀ + κ (x̂₀ − x̂₀₋)) + σ(t + Δt) (ε̂ + κ (ε̂ −
/// ε̂₋)), with the predictions of data and noise of this step and of the one before, which are not extrapolated themselves (the
/// sampler of UCGM, arXiv 2505.07447).
#[derive(Clone, Debug, PartialEq)]
pub struct Euler {
    pub(super) timesteps: Timesteps,
    interpolant: Interpolant,
    extrapolation: f64,
}

impl Euler {
    /// The solver without extrapolation; `interpolant` is that of the field.
    pub fn new(timesteps: Timesteps, interpolant: Interpolant) -> Self {
        Self { timesteps, interpolant, extrapolation: 0.0 }
    }

    /// The solver with extrapolation κ.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 0 ≤ κ < 1: from 1 on, errors grow from step to step.
    pub fn extrapolated(self, extrapolation: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&extrapolation) {
            return Err(Error::argument("extrapolation", "a number from 0 to below 1", extrapolation));
        }
        Ok(Self { extrapolation, ..self })
    }

    /// κ, the factor of the extrapolation.
    pub fn extrapolation(&self) -> f64 {
        self.extrapolation
    }

    /// The state at time `next` that the predictions of an evaluation at time `t` give, times `factor`.
    fn predicted(&self, t: f64, next: f64, factor: f64) -> LinearCombination {
        let (data, noise) = (self.interpolant.denoised(t), self.interpolant.noise(t));
        let (alpha, sigma) = (factor * self.interpolant.alpha(next), factor * self.interpolant.sigma(next));
        LinearCombination { v: alpha * data.v + sigma * noise.v, x: alpha * data.x + sigma * noise.x }
    }
}

/// x* = x + v(x, t) Δt, x ← x + ½ (v(x, t) + v(x*, t + Δt)) Δt: order 2, two evaluations per step. Draws no noise.
///
/// The final step evaluates the field at t = 0, a time that networks meet in training, so it needs no exception.
#[derive(Clone, Debug, PartialEq)]
pub struct Heun {
    pub(super) timesteps: Timesteps,
    interpolant: Interpolant,
}

impl Heun {
    /// The solver; `interpolant` is that of the field, for previews.
    pub fn new(timesteps: Timesteps, interpolant: Interpolant) -> Self {
        Self { timesteps, interpolant }
    }
}

impl<B: Backend> Sampler<B> for Euler {
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
        _: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        let Interval { t, next, dt, .. } = self.timesteps.interval(i);
        let kappa = self.extrapolation;
        let v = state.evaluate(field, t, if kappa == 0.0 { 1 } else { 2 })?;
        state.x = match state.history().iter().rev().nth(1) {
            Some(previous) if i >= 2 => {
                let current = self.predicted(t, next, 1.0 + kappa).apply(&v, &state.x)?;
                current.add(&self.predicted(previous.t, next, -kappa).apply(&previous.v, &previous.x)?)?
            }
            _ => advance(&state.x, &v, dt)?,
        };
        Ok(())
    }
}

impl<B: Backend> Sampler<B> for Heun {
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
        _: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        let Interval { t, next, dt, .. } = self.timesteps.interval(i);
        let v = state.evaluate(field, t, 1)?;
        let ahead = evaluate(field, &advance(&state.x, &v, dt)?, next)?;
        state.x = advance(&state.x, &v.add(&ahead)?, dt / 2.0)?;
        Ok(())
    }
}
