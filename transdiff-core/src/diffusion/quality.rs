//! Tested combinations of solver, number of steps and interval of guidance.

use std::str::FromStr;

use super::{SamplingSettings, Schedule, SolverKind};
use crate::{Error, Result};

/// Combination of solver, number of steps and interval of guidance, by name. What it costs in quality on trained models is in
/// `docs/fewer-evaluations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quality {
    /// A first look: adams-bashforth of order 2 in 8 steps, references in 6, guidance up to t = 0.7.
    Draft,
    /// A seventh of the network passes: adams-bashforth of order 2 in 16 steps, references in 10, guidance up to t = 0.7.
    Fast,
    /// The paper's: euler-maruyama in 100 steps with guidance at all times.
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

    /// `settings` with the solver, the steps and the interval of guidance of this combination, for a generation in `ar_steps` AR
    /// steps. Scales of guidance are kept; those of drift and noise where the solver has them.
    pub fn apply(self, settings: SamplingSettings, ar_steps: usize) -> SamplingSettings {
        let (solver, references, last, high) = match self {
            Self::Draft => (SolverKind::AdamsBashforth, 6, 8, 0.7),
            Self::Fast => (SolverKind::AdamsBashforth, 10, 16, 0.7),
            Self::Paper => (SolverKind::EulerMaruyama, 100, 100, 1.0),
        };
        let mut steps = vec![references; ar_steps.saturating_sub(1)];
        steps.push(last);
        SamplingSettings {
            order: solver.default_order(),
            schedule: Schedule::Steps(steps),
            extrapolation: None,
            guidance_interval: (0.0, high),
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
        for (quality, ar_steps, evaluations, passes) in [
            // Guided from the first time that is at most 0.7: i/8 ≥ 0.3 and i/16 ≥ 0.3.
            (Quality::Draft, 1, 8, 8 + 5),
            (Quality::Fast, 1, 16, 16 + 11),
            (Quality::Paper, 1, 100, 200),
            (Quality::Fast, 4, 3 * 10 + 16, 3 * (10 + 7) + 16 + 11),
            (Quality::Paper, 4, 400, 800),
        ] {
            let settings = quality.apply(Preset::BASE.into(), ar_steps);
            let sampling = settings.build(ar_steps).unwrap();
            assert_eq!(sampling.work(ar_steps, 0).unwrap(), Work { evaluations, passes }, "{quality:?}");
            assert_eq!(quality.name().parse::<Quality>().unwrap(), quality);
        }
        let paper = Quality::Paper.apply(Preset::BASE.into(), 1);
        assert_eq!(paper, Preset::BASE.into());
        assert!("best".parse::<Quality>().is_err());
    }
}
