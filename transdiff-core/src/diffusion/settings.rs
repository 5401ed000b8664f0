//! Sampling settings: defaults, and their validation.

use std::str::FromStr;

use super::{Euler, EulerMaruyama, Guidance, Heun, Interpolant, Sampling, Solver, Timesteps};
use crate::{Error, Result};

/// Default guidance, drift and noise scales of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Guidance scale w.
    pub guidance: f64,
    /// s₀, the factor of the drift.
    pub drift_scale: f64,
    /// s₁, the factor of the injected noise.
    pub noise_scale: f64,
}

impl Preset {
    /// Both scales 1, and no guidance: for models without published settings.
    pub const PLAIN: Self = Self::new(1.0, 1.0, 1.0);
    /// Number of sampling steps of every published result.
    pub const STEPS: usize = 100;

    /// A preset of guidance scale, drift scale and noise scale.
    pub const fn new(guidance: f64, drift_scale: f64, noise_scale: f64) -> Self {
        Self { guidance, drift_scale, noise_scale }
    }
}

/// Solver by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SolverKind {
    /// The paper's stochastic sampler with two scales, on the paper's timesteps.
    #[default]
    EulerMaruyama,
    /// Deterministic, order 1, on uniform timesteps.
    Euler,
    /// Deterministic, order 2, on uniform timesteps; two evaluations per step.
    Heun,
}

impl SolverKind {
    /// All solvers.
    pub const ALL: [Self; 3] = [Self::EulerMaruyama, Self::Euler, Self::Heun];

    /// Name of the solver, as [`FromStr`] parses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EulerMaruyama => "euler-maruyama",
            Self::Euler => "euler",
            Self::Heun => "heun",
        }
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

/// Sampling settings as a user gives them. [`build`](Self::build) is the one place that checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Solver.
    pub solver: SolverKind,
    /// Number of sampling steps per AR step, at least 1.
    pub steps: usize,
    /// Guidance scales, at least 1 each: one for all AR steps, or one per AR step; 1 disables guidance.
    pub guidance: Vec<f64>,
    /// Lowest and highest time in [0, 1] at which guidance acts.
    pub guidance_interval: (f64, f64),
    /// Drift scale s₀, at least 0; `None` for other solvers than Euler–Maruyama.
    pub drift_scale: Option<f64>,
    /// Noise scale s₁, at least 0; `None` for other solvers than Euler–Maruyama.
    pub noise_scale: Option<f64>,
}

impl From<Preset> for SamplingSettings {
    /// Euler–Maruyama in [`Preset::STEPS`] steps with guidance at all times.
    fn from(preset: Preset) -> Self {
        Self {
            solver: SolverKind::EulerMaruyama,
            steps: Preset::STEPS,
            guidance: vec![preset.guidance],
            guidance_interval: (0.0, 1.0),
            drift_scale: Some(preset.drift_scale),
            noise_scale: Some(preset.noise_scale),
        }
    }
}

impl SamplingSettings {
    /// The same settings with another solver, without scales if it has none.
    #[must_use]
    pub fn with_solver(self, solver: SolverKind) -> Self {
        match solver {
            SolverKind::EulerMaruyama => Self { solver, ..self },
            SolverKind::Euler | SolverKind::Heun => {
                Self { solver, drift_scale: None, noise_scale: None, ..self }
            }
        }
    }

    /// The same settings with `steps` sampling steps.
    #[must_use]
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Solver and guidance of a generation in `ar_steps` AR steps, on the linear interpolant.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting that is out of range, does not go with the solver, or does not go with
    /// the number of AR steps.
    pub fn build(&self, ar_steps: usize) -> Result<Sampling> {
        Ok(Sampling { solver: self.build_solver()?, guidance: self.build_guidance(ar_steps)? })
    }

    fn build_solver(&self) -> Result<Solver> {
        let interpolant = Interpolant::Linear;
        if self.solver == SolverKind::EulerMaruyama {
            let timesteps = Timesteps::paper(self.steps)?;
            let (drift, noise) = (self.drift_scale.unwrap_or(1.0), self.noise_scale.unwrap_or(1.0));
            return Ok(EulerMaruyama::new(timesteps, interpolant, drift, noise)?.into());
        }
        for (name, scale) in [("drift_scale", self.drift_scale), ("noise_scale", self.noise_scale)] {
            if let Some(scale) = scale {
                let expected = format!("no value, because the solver {} has no scales", self.solver.name());
                return Err(Error::argument(name, expected, scale));
            }
        }
        let timesteps = Timesteps::uniform(self.steps)?;
        Ok(match self.solver {
            SolverKind::Heun => Heun { timesteps, interpolant }.into(),
            _ => Euler { timesteps, interpolant }.into(),
        })
    }

    fn build_guidance(&self, ar_steps: usize) -> Result<Vec<Guidance>> {
        let count = self.guidance.len();
        if count != 1 && count != ar_steps {
            let expected = match ar_steps {
                1 => "1 scale".to_owned(),
                n => format!("1 scale, or {n} (one per AR step)"),
            };
            return Err(Error::argument("guidance", expected, count));
        }
        let (low, high) = self.guidance_interval;
        self.guidance.iter().map(|&scale| Guidance::within(scale, low, high)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(settings: &SamplingSettings, ar_steps: usize) -> &'static str {
        match settings.build(ar_steps) {
            Err(Error::Argument { argument, .. }) => argument,
            other => panic!("expected an argument error, got {other:?}"),
        }
    }

    #[test]
    fn presets_build() {
        let sampling = SamplingSettings::from(Preset::new(1.3, 0.87, 0.91)).build(4).unwrap();
        let expected = EulerMaruyama::new(Timesteps::paper(100).unwrap(), Interpolant::Linear, 0.87, 0.91);
        assert_eq!(sampling, Sampling::new(expected.unwrap(), Guidance::new(1.3).unwrap()));
        for kind in SolverKind::ALL {
            assert_eq!(kind.name().parse::<SolverKind>().unwrap(), kind);
            SamplingSettings::from(Preset::PLAIN).with_solver(kind).with_steps(3).build(1).unwrap();
        }
        assert!("dopri5".parse::<SolverKind>().is_err());
    }

    #[test]
    fn invalid_settings_are_named() {
        let good = SamplingSettings::from(Preset::PLAIN);
        assert_eq!(argument(&good.clone().with_steps(0), 1), "steps");
        assert_eq!(argument(&SamplingSettings { guidance: vec![0.5], ..good.clone() }, 1), "guidance");
        assert_eq!(argument(&SamplingSettings { guidance: vec![1.0; 3], ..good.clone() }, 4), "guidance");
        assert_eq!(argument(&SamplingSettings { guidance: vec![], ..good.clone() }, 4), "guidance");
        assert_eq!(
            argument(&SamplingSettings { guidance_interval: (0.5, 0.2), ..good.clone() }, 1),
            "guidance_low"
        );
        assert_eq!(argument(&SamplingSettings { drift_scale: Some(-1.0), ..good.clone() }, 1), "drift_scale");
        let euler = SamplingSettings { solver: SolverKind::Euler, drift_scale: None, ..good };
        assert_eq!(argument(&euler, 1), "noise_scale");
        SamplingSettings { guidance: vec![1.0, 1.5], ..euler }
            .with_solver(SolverKind::Heun)
            .build(2)
            .unwrap();
    }
}
