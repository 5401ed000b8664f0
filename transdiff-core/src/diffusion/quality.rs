//! Tested combinations of solver and number of steps.

use std::str::FromStr;

use super::{SamplingSettings, Schedule, SolverKind};
use crate::{Error, Result};

/// Combination of solver and number of steps, by name. What it costs in quality on trained models is in
/// `docs/fewer-evaluations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quality {
    /// A first look: exponential-sde of order 2 in 8 steps, references in 6.
    Draft,
    /// A sixth of the evaluations: exponential-sde of order 2 in 16 steps, references in 10.
    Fast,
    /// The paper's: euler-maruyama in 100 steps.
    Paper,
}

impl Quality {
    /// All combinations.
    pub const ALL: [Self; 3] = [Self::Draft, Self::Fast, Self::Paper];

    /// Name of the combination, as [`FromStr`] parses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Fast => "fast",
            Self::Paper => "paper",
        }
    }

    /// `settings` with the solver and the steps of this combination, for a generation in `ar_steps` AR steps. Guidance and scales
    /// are kept.
    pub fn apply(self, settings: SamplingSettings, ar_steps: usize) -> SamplingSettings {
        let (solver, references, last) = match self {
            Self::Draft => (SolverKind::ExponentialSde, 6, 8),
            Self::Fast => (SolverKind::ExponentialSde, 10, 16),
            Self::Paper => (SolverKind::EulerMaruyama, 100, 100),
        };
        let mut steps = vec![references; ar_steps.saturating_sub(1)];
        steps.push(last);
        SamplingSettings {
            order: solver.default_order(),
            schedule: Schedule::Steps(steps),
            extrapolation: None,
            ..settings.with_solver(solver)
        }
    }
}

impl FromStr for Quality {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] for an unknown name.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|quality| quality.name() == name);
        found.ok_or_else(|| Error::argument("quality", Self::ALL.map(Self::name).join(", "), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Preset, Work};

    #[test]
    fn combinations_take_the_evaluations_that_they_say() {
        for (quality, ar_steps, evaluations) in [
            (Quality::Draft, 1, 8),
            (Quality::Fast, 1, 16),
            (Quality::Paper, 1, 100),
            (Quality::Draft, 4, 3 * 6 + 8),
            (Quality::Fast, 4, 3 * 10 + 16),
            (Quality::Paper, 4, 400),
        ] {
            let settings = quality.apply(Preset::BASE.into(), ar_steps);
            let sampling = settings.build(ar_steps).unwrap();
            let work = Work { evaluations, passes: 2 * evaluations };
            assert_eq!(sampling.work(ar_steps, 0).unwrap(), work, "{quality:?}");
            assert_eq!(quality.name().parse::<Quality>().unwrap(), quality);
        }
        let paper = Quality::Paper.apply(Preset::BASE.into(), 1);
        assert_eq!(paper, Preset::BASE.into());
        assert!("best".parse::<Quality>().is_err());
    }
}
