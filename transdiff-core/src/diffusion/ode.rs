//! Deterministic solvers of the flow ODE dx = v dt (paper Eq. 3).
//!
//! They run best on [`Timesteps::uniform`]: on the paper's timesteps the final step keeps its length of 0.04, so more
//! steps stop paying once they are shorter than that (the remaining error is of the order of 0.04² for Euler, 0.04³ for
//! Heun).

use super::state::evaluate;
use super::{
    Interpolant, Interval, LinearCombination, NoiseSource, Sampler, SolverState, Timesteps, VelocityField,
};
use crate::{Backend, Result, Tensor};

/// x ← x + v(x, t) Δt: order 1, one evaluation per step. Draws no noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Euler {
    /// Times of the steps.
    pub timesteps: Timesteps,
    /// Interpolant of the field, for previews.
    pub interpolant: Interpolant,
}

/// x* = x + v(x, t) Δt, x ← x + ½ (v(x, t) + v(x*, t + Δt)) Δt: order 2, two evaluations per step. Draws no noise.
///
/// The final step evaluates the field at t = 0, a time that networks meet in training, so it needs no exception.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heun {
    /// Times of the steps.
    pub timesteps: Timesteps,
    /// Interpolant of the field, for previews.
    pub interpolant: Interpolant,
}

/// x + v · dt.
fn advance<B: Backend>(x: &Tensor<B>, v: &Tensor<B>, dt: f64) -> Result<Tensor<B>> {
    LinearCombination { v: dt, x: 1.0 }.apply(v, x)
}

impl<B: Backend> Sampler<B> for Euler {
    fn timesteps(&self) -> Timesteps {
        self.timesteps
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
        let Interval { t, dt, .. } = self.timesteps.interval(i);
        let v = state.evaluate(field, t, 1)?;
        state.x = advance(&state.x, &v, dt)?;
        Ok(())
    }
}

impl<B: Backend> Sampler<B> for Heun {
    fn timesteps(&self) -> Timesteps {
        self.timesteps
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
