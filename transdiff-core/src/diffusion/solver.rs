//! A solver chosen at run time, and the guidance that it runs under.

use super::{
    ArStep, Euler, EulerMaruyama, Guidance, Heun, Interpolant, NoiseSource, Sampler, SolverState, Timesteps,
    VelocityField,
};
use crate::{Backend, Error, Result};

/// A sampler chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// The paper's stochastic sampler.
    EulerMaruyama(EulerMaruyama),
    /// Deterministic, order 1.
    Euler(Euler),
    /// Deterministic, order 2.
    Heun(Heun),
}

impl From<EulerMaruyama> for Solver {
    fn from(sampler: EulerMaruyama) -> Self {
        Self::EulerMaruyama(sampler)
    }
}

impl From<Euler> for Solver {
    fn from(sampler: Euler) -> Self {
        Self::Euler(sampler)
    }
}

impl From<Heun> for Solver {
    fn from(sampler: Heun) -> Self {
        Self::Heun(sampler)
    }
}

impl Solver {
    fn sampler<B: Backend>(&self) -> &dyn Sampler<B> {
        match self {
            Self::EulerMaruyama(sampler) => sampler,
            Self::Euler(sampler) => sampler,
            Self::Heun(sampler) => sampler,
        }
    }

    /// Times of the steps.
    pub fn timesteps(&self) -> Timesteps {
        match self {
            Self::EulerMaruyama(s) => s.timesteps(),
            Self::Euler(s) => s.timesteps,
            Self::Heun(s) => s.timesteps,
        }
    }
}

impl<B: Backend> Sampler<B> for Solver {
    fn timesteps(&self) -> Timesteps {
        self.timesteps()
    }

    fn interpolant(&self) -> Interpolant {
        self.sampler::<B>().interpolant()
    }

    fn step(
        &self,
        i: usize,
        state: &mut SolverState<B>,
        field: &dyn VelocityField<B>,
        noise: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        self.sampler().step(i, state, field, noise)
    }
}

/// Solver and guidance of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Solver, with its timesteps.
    pub solver: Solver,
    /// Guidance of each AR step, or one for all.
    pub guidance: Vec<Guidance>,
}

impl Sampling {
    /// `solver` with one guidance for all AR steps.
    pub fn new(solver: impl Into<Solver>, guidance: Guidance) -> Self {
        Self { solver: solver.into(), guidance: vec![guidance] }
    }

    /// Guidance of `ar_step`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is neither one guidance nor one per AR step.
    pub fn guidance(&self, ar_step: ArStep) -> Result<Guidance> {
        match self.guidance[..] {
            [one] => Ok(one),
            ref each if each.len() == ar_step.count => Ok(each[ar_step.index]),
            ref other => {
                let expected = format!("1 scale, or {} (one per AR step)", ar_step.count);
                Err(Error::argument("guidance", expected, other.len()))
            }
        }
    }

    /// Returns `true` if any AR step has a guidance scale above 1, and so needs unconditional features.
    pub fn is_guided(&self) -> bool {
        self.guidance.iter().any(|guidance| guidance.scale() > 1.0)
    }
}
