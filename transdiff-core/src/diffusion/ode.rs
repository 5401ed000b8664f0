//! Deterministic solvers of the flow ODE dx = v dt (paper Eq. 3).
//!
//! They run best on [`Timesteps::uniform`]: on the paper's times the last step keeps its length of 0.04, so more steps
//! stop paying once they are shorter than that (the error left is of the order of 0.04² for Euler, 0.04³ for Heun).

use super::{
    ArStep, Interpolant, LinearCombination, NoiseSource, Observer, Sampler, Timesteps, VelocityField, drive,
};
use crate::{Backend, Result, Tensor};

/// x ← x + v(x, t) Δt: order 1, one evaluation a step. Never asks the noise source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Euler {
    /// The times of the steps.
    pub timesteps: Timesteps,
    /// The path of the field, for previews.
    pub interpolant: Interpolant,
}

/// x* = x + v(x, t) Δt, x ← x + ½ (v(x, t) + v(x*, t + Δt)) Δt: order 2, two evaluations a step. Never asks the
/// noise source.
///
/// The last step evaluates the field at t = 0, a time that networks meet in training, so it needs no exception.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heun {
    /// The times of the steps.
    pub timesteps: Timesteps,
    /// The path of the field, for previews.
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

    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        _: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        drive(self.timesteps, self.interpolant, field, x, ar_step, observer, |step, x, v| {
            advance(x, v, step.dt)
        })
    }
}

impl<B: Backend> Sampler<B> for Heun {
    fn timesteps(&self) -> Timesteps {
        self.timesteps
    }

    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        _: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        drive(self.timesteps, self.interpolant, field, x, ar_step, observer, |step, x, v| {
            let ahead = super::evaluate(field, &advance(x, v, step.dt)?, step.next)?;
            advance(x, &v.add(&ahead)?, step.dt / 2.0)
        })
    }
}
