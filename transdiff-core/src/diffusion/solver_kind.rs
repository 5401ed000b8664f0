//! Names of the solvers.

use std::str::FromStr;

use crate::{Error, Result};

/// Solver by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SolverKind {
    /// The paper's stochastic sampler with two scales, on the paper's timesteps.
    #[default]
    EulerMaruyama,
    /// The paper's SDE with its linear part solved exactly, order 1 or 2, on the paper's timesteps.
    ExponentialSde,
    /// Deterministic, order 1, on uniform timesteps.
    Euler,
    /// Deterministic, order 2, on uniform timesteps; two evaluations per step.
    Heun,
    /// Deterministic, through the last 2, 3 or 4 velocities, on uniform timesteps.
    AdamsBashforth,
    /// Stochastic, for distilled models, on uniform timesteps.
    Consistency,
}

impl SolverKind {
    /// All solvers.
    pub const ALL: [Self; 6] = [
        Self::EulerMaruyama,
        Self::ExponentialSde,
        Self::Euler,
        Self::Heun,
        Self::AdamsBashforth,
        Self::Consistency,
    ];

    /// Name of the solver, as [`FromStr`] parses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EulerMaruyama => "euler-maruyama",
            Self::ExponentialSde => "exponential-sde",
            Self::Euler => "euler",
            Self::Heun => "heun",
            Self::AdamsBashforth => "adams-bashforth",
            Self::Consistency => "consistency",
        }
    }

    /// Returns true if the solver integrates the paper's SDE, and so has its two scales and its times.
    pub fn has_scales(self) -> bool {
        matches!(self, Self::EulerMaruyama | Self::ExponentialSde)
    }

    /// Returns true if the solver draws noise in its steps.
    pub fn is_stochastic(self) -> bool {
        self.has_scales() || self == Self::Consistency
    }

    /// Order of a solver that has a choice, unless the settings say another.
    pub fn default_order(self) -> Option<usize> {
        matches!(self, Self::ExponentialSde | Self::AdamsBashforth).then_some(2)
    }
}

impl FromStr for SolverKind {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] for an unknown name.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::argument("solver", Self::ALL.map(Self::name).join(", "), name))
    }
}
