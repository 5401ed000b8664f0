//! A solver chosen at run time, and the guidance that it runs under.

use std::ops::Range;

use super::{
    AdamsBashforth, ArStep, Consistency, Euler, EulerMaruyama, ExponentialSde, Guidance, Heun, Interpolant,
    NoiseSource, Sampler, SolverKind, SolverState, Timesteps, VelocityField,
};
use crate::{Backend, Result};

/// Declares [`Solver`] with a variant for each sampler.
macro_rules! solvers {
    ($($(#[$doc:meta])* $Sampler:ident,)*) => {
        /// A sampler chosen at run time.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Solver {
            $($(#[$doc])* $Sampler($Sampler),)*
        }

        $(impl From<$Sampler> for Solver {
            fn from(sampler: $Sampler) -> Self {
                Self::$Sampler(sampler)
            }
        })*

        impl Solver {
            /// Times of the steps.
            pub fn timesteps(&self) -> &Timesteps {
                match self {
                    $(Self::$Sampler(sampler) => &sampler.timesteps,)*
                }
            }

            fn sampler<B: Backend>(&self) -> &dyn Sampler<B> {
                match self {
                    $(Self::$Sampler(sampler) => sampler,)*
                }
            }
        }
    };
}

solvers! {
    /// The paper's stochastic sampler.
    EulerMaruyama,
    /// The paper's SDE with its linear part solved exactly.
    ExponentialSde,
    /// Deterministic, order 1.
    Euler,
    /// Deterministic, order 2, two evaluations per step.
    Heun,
    /// Deterministic, through earlier velocities.
    AdamsBashforth,
    /// For distilled models.
    Consistency,
}

impl Solver {
    /// Name of the solver.
    pub fn kind(&self) -> SolverKind {
        match self {
            Self::EulerMaruyama(_) => SolverKind::EulerMaruyama,
            Self::ExponentialSde(_) => SolverKind::ExponentialSde,
            Self::Euler(_) => SolverKind::Euler,
            Self::Heun(_) => SolverKind::Heun,
            Self::AdamsBashforth(_) => SolverKind::AdamsBashforth,
            Self::Consistency(_) => SolverKind::Consistency,
        }
    }

    /// Times at which step `i` evaluates the field.
    fn evaluation_times(&self, i: usize) -> impl Iterator<Item = f64> {
        let evaluations = if matches!(self, Self::Heun(_)) { 2 } else { 1 };
        (i..i + evaluations).map(|i| self.timesteps().time(i))
    }
}

impl<B: Backend> Sampler<B> for Solver {
    fn timesteps(&self) -> &Timesteps {
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

/// Work of a generation, per image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Number of velocities, each under guidance where it is active.
    pub evaluations: usize,
    /// Number of passes through the network: one per velocity, and one more where guidance is active.
    pub passes: usize,
}

/// Solver and guidance of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Solver of each AR step with its timesteps, or one for all.
    pub solvers: Vec<Solver>,
    /// Guidance of each AR step, or one for all.
    pub guidance: Vec<Guidance>,
}

impl Sampling {
    /// `solver` with one guidance for all AR steps.
    pub fn new(solver: impl Into<Solver>, guidance: Guidance) -> Self {
        Self { solvers: vec![solver.into()], guidance: vec![guidance] }
    }

    /// Solver of `ar_step`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is neither one solver nor one per AR step.
    pub fn solver(&self, ar_step: ArStep) -> Result<&Solver> {
        ar_step.choose(&self.solvers, "solvers", "solver")
    }

    /// Guidance of `ar_step`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is neither one guidance nor one per AR step.
    pub fn guidance(&self, ar_step: ArStep) -> Result<Guidance> {
        ar_step.choose(&self.guidance, "guidance", "scale").copied()
    }

    /// Number of steps of the AR steps `indices` of `ar_steps`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is neither one solver nor one per AR step.
    pub(crate) fn steps(&self, mut indices: Range<usize>, ar_steps: usize) -> Result<usize> {
        let ar_step = |index| ArStep { index, count: ar_steps, given: 0 };
        let steps = |index| Ok(self.solver(ar_step(index))?.timesteps().steps());
        indices.try_fold(0usize, |sum, index| Ok(sum.saturating_add(steps(index)?)))
    }

    /// Work of a generation in `ar_steps` AR steps, the first `given` of which are given.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there are neither one nor `ar_steps` solvers, or guidances.
    pub fn work(&self, ar_steps: usize, given: usize) -> Result<Work> {
        let mut work = Work { evaluations: 0, passes: 0 };
        for index in given..ar_steps {
            let of_step = self.work_of(ArStep { index, count: ar_steps, given })?;
            work.evaluations += of_step.evaluations;
            work.passes += of_step.passes;
        }
        Ok(work)
    }

    /// Work of one AR step.
    ///
    /// # Errors
    /// As [`work`](Self::work).
    pub(crate) fn work_of(&self, ar_step: ArStep) -> Result<Work> {
        let (solver, guidance) = (self.solver(ar_step)?, self.guidance(ar_step)?);
        let mut work = Work { evaluations: 0, passes: 0 };
        for t in (0..solver.timesteps().steps()).flat_map(|i| solver.evaluation_times(i)) {
            work.evaluations += 1;
            work.passes += 1 + usize::from(guidance.is_active(t));
        }
        Ok(work)
    }

    /// Returns `true` if any AR step has a guidance scale above 1, and so needs unconditional features.
    pub fn is_guided(&self) -> bool {
        self.guidance.iter().any(|guidance| guidance.scale() > 1.0)
    }
}
