//! Sampling settings: defaults, and their validation.

use std::fmt::Display;

use super::step::one_or_each;
use super::{
    AdamsBashforth, Consistency, Euler, EulerMaruyama, ExponentialSde, Guidance, Heun, Interpolant, Sampling,
    Solver, SolverKind, Timesteps,
};
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

/// Times of the steps, as a user gives them.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Numbers of steps, one for all AR steps or one per AR step, at the times that go with the solver.
    Steps(Vec<usize>),
    /// Numbers of steps as above, at times warped with these exponents ([`Timesteps::warped`]).
    Warped(Vec<usize>, [f64; 3]),
    /// All times, for every AR step ([`Timesteps::listed`]).
    Times(Vec<f64>),
}

/// Sampling settings as a user gives them. [`build`](Self::build) is the one place that checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Solver.
    pub solver: SolverKind,
    /// Order of exponential-sde, 1 or 2, or of adams-bashforth, 2 to 4; `None` for the default of 2, and for other solvers.
    pub order: Option<usize>,
    /// Numbers or times of the sampling steps.
    pub schedule: Schedule,
    /// Extrapolation κ of euler ([`Euler::extrapolated`]), from 0 to below 1; `None` for none, and for other solvers.
    pub extrapolation: Option<f64>,
    /// Guidance scales, at least 1 each: one for all AR steps, or one per AR step; 1 disables guidance.
    pub guidance: Vec<f64>,
    /// Lowest and highest time in [0, 1] at which guidance acts.
    pub guidance_interval: (f64, f64),
    /// Drift scale s₀, at least 0; `None` for solvers without scales.
    pub drift_scale: Option<f64>,
    /// Noise scale s₁, at least 0; `None` for solvers without scales.
    pub noise_scale: Option<f64>,
}

impl From<Preset> for SamplingSettings {
    /// Euler–Maruyama in [`Preset::STEPS`] steps with guidance at all times.
    fn from(preset: Preset) -> Self {
        Self {
            solver: SolverKind::EulerMaruyama,
            order: None,
            schedule: Schedule::Steps(vec![Preset::STEPS]),
            extrapolation: None,
            guidance: vec![preset.guidance],
            guidance_interval: (0.0, 1.0),
            drift_scale: Some(preset.drift_scale),
            noise_scale: Some(preset.noise_scale),
        }
    }
}

impl SamplingSettings {
    /// The same settings with another solver, without those that it does not have.
    #[must_use]
    pub fn with_solver(self, solver: SolverKind) -> Self {
        Self {
            solver,
            order: self.order.filter(|_| solver.default_order().is_some()),
            extrapolation: self.extrapolation.filter(|_| solver == SolverKind::Euler),
            drift_scale: self.drift_scale.filter(|_| solver.has_scales()),
            noise_scale: self.noise_scale.filter(|_| solver.has_scales()),
            ..self
        }
    }

    /// The same settings with `steps` sampling steps per AR step, at the times that go with the solver.
    #[must_use]
    pub fn with_steps(self, steps: usize) -> Self {
        Self { schedule: Schedule::Steps(vec![steps]), ..self }
    }

    /// Solvers and guidance of a generation in `ar_steps` AR steps, on the linear interpolant.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting that is out of range, does not go with the solver, or does not go with
    /// the number of AR steps.
    pub fn build(&self, ar_steps: usize) -> Result<Sampling> {
        self.check_solver()?;
        let timesteps: Vec<Timesteps> = match &self.schedule {
            Schedule::Times(times) => vec![Timesteps::listed(times.as_slice())?],
            Schedule::Steps(steps) | Schedule::Warped(steps, _) if ![1, ar_steps].contains(&steps.len()) => {
                return Err(one_or_each("steps", "number", ar_steps, steps.len()));
            }
            Schedule::Steps(steps) => {
                let spaced = if self.solver.has_scales() { Timesteps::paper } else { Timesteps::uniform };
                steps.iter().map(|&steps| spaced(steps)).collect::<Result<_>>()?
            }
            Schedule::Warped(steps, warp) => {
                steps.iter().map(|&steps| Timesteps::warped(steps, *warp)).collect::<Result<_>>()?
            }
        };
        let solvers =
            timesteps.into_iter().map(|timesteps| self.build_solver(timesteps)).collect::<Result<_>>()?;
        Ok(Sampling { solvers, guidance: self.build_guidance(ar_steps)? })
    }

    /// Checks that the solver has all that is set.
    fn check_solver(&self) -> Result<()> {
        let refused = |name, what: &str, value: &dyn Display| {
            let expected = format!("no value, because the solver {} has no {what}", self.solver.name());
            Err(Error::argument(name, expected, value))
        };
        for (name, scale) in [("drift_scale", self.drift_scale), ("noise_scale", self.noise_scale)] {
            if let (Some(scale), false) = (scale, self.solver.has_scales()) {
                return refused(name, "scales", &scale);
            }
        }
        match (self.order, self.extrapolation) {
            (Some(order), _) if self.solver.default_order().is_none() => {
                refused("order", "choice of order", &order)
            }
            (_, Some(factor)) if self.solver != SolverKind::Euler => {
                refused("extrapolation", "extrapolation", &factor)
            }
            _ => Ok(()),
        }
    }

    fn build_solver(&self, timesteps: Timesteps) -> Result<Solver> {
        let interpolant = Interpolant::Linear;
        let (drift, noise) = (self.drift_scale.unwrap_or(1.0), self.noise_scale.unwrap_or(1.0));
        let order = self.order.or(self.solver.default_order()).unwrap_or(1);
        Ok(match self.solver {
            SolverKind::EulerMaruyama => EulerMaruyama::new(timesteps, interpolant, drift, noise)?.into(),
            SolverKind::ExponentialSde => ExponentialSde::new(timesteps, order, drift, noise)?.into(),
            SolverKind::Euler => {
                Euler::new(timesteps, interpolant).extrapolated(self.extrapolation.unwrap_or(0.0))?.into()
            }
            SolverKind::Heun => Heun::new(timesteps, interpolant).into(),
            SolverKind::AdamsBashforth => AdamsBashforth::new(timesteps, interpolant, order)?.into(),
            SolverKind::Consistency => Consistency::new(timesteps, interpolant).into(),
        })
    }

    fn build_guidance(&self, ar_steps: usize) -> Result<Vec<Guidance>> {
        let count = self.guidance.len();
        if count != 1 && count != ar_steps {
            return Err(one_or_each("guidance", "scale", ar_steps, count));
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
        let steps = |steps| SamplingSettings { schedule: Schedule::Steps(steps), ..good.clone() };
        assert!(steps(vec![3, 4]).build(2).is_ok());
        for (settings, ar_steps) in [(steps(vec![3, 0]), 2), (steps(vec![3, 4]), 3), (steps(vec![]), 1)] {
            assert_eq!(argument(&settings, ar_steps), "steps");
        }
        let schedule = |schedule| SamplingSettings { schedule, ..good.clone() };
        assert_eq!(argument(&schedule(Schedule::Times(vec![1.0, 0.5])), 1), "times");
        assert_eq!(argument(&schedule(Schedule::Warped(vec![4], [1.0, 0.0, 1.0])), 1), "warp");
        assert_eq!(argument(&SamplingSettings { order: Some(2), ..good.clone() }, 1), "order");
        assert_eq!(
            argument(&SamplingSettings { extrapolation: Some(0.3), ..good.clone() }, 1),
            "extrapolation"
        );
        for (kind, order) in [(SolverKind::ExponentialSde, 3), (SolverKind::AdamsBashforth, 1)] {
            let settings = SamplingSettings { order: Some(order), ..good.clone().with_solver(kind) };
            assert_eq!(argument(&settings, 1), "order");
        }
        let euler = SamplingSettings { solver: SolverKind::Euler, drift_scale: None, ..good.clone() };
        assert_eq!(argument(&euler, 1), "noise_scale");
        SamplingSettings { guidance: vec![1.0, 1.5], ..euler }
            .with_solver(SolverKind::Heun)
            .build(2)
            .unwrap();
    }
}
