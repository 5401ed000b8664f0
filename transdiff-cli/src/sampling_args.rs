//! Command-line arguments of sampling, shared by the commands that generate images.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use transdiff::diffusion::{Quality, Sampling, SamplingSettings, Schedule, SolverKind};
use transdiff::models::GeneratorInfo;
use transdiff_terminal::{MAX_COUNT, number, whole};

use crate::failure::Result;

/// Solver for the sampling ODE or SDE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SolverArg {
    /// Stochastic solver of the paper, with drift and noise scales
    EulerMaruyama,
    /// The paper's stochastic process with its linear part solved exactly, for fewer steps; first or second order
    ExponentialSde,
    /// Deterministic, first order
    Euler,
    /// Deterministic, second order; two model evaluations per step
    Heun,
    /// Deterministic, through the velocities of the last 2 to 4 steps, for fewer steps
    AdamsBashforth,
    /// Stochastic, for distilled models only
    Consistency,
}

impl From<SolverKind> for SolverArg {
    fn from(solver: SolverKind) -> Self {
        match solver {
            SolverKind::EulerMaruyama => Self::EulerMaruyama,
            SolverKind::ExponentialSde => Self::ExponentialSde,
            SolverKind::Euler => Self::Euler,
            SolverKind::Heun => Self::Heun,
            SolverKind::AdamsBashforth => Self::AdamsBashforth,
            SolverKind::Consistency => Self::Consistency,
        }
    }
}

impl From<SolverArg> for SolverKind {
    fn from(solver: SolverArg) -> Self {
        match solver {
            SolverArg::EulerMaruyama => Self::EulerMaruyama,
            SolverArg::ExponentialSde => Self::ExponentialSde,
            SolverArg::Euler => Self::Euler,
            SolverArg::Heun => Self::Heun,
            SolverArg::AdamsBashforth => Self::AdamsBashforth,
            SolverArg::Consistency => Self::Consistency,
        }
    }
}

/// Combination of solver and number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QualityArg {
    /// A first look: 8 evaluations per image, or per AR step 6 and at last 8
    Draft,
    /// A fraction of the paper's time: 16 evaluations per image, or per AR step 10 and at last 16
    Fast,
    /// The paper's settings
    Paper,
}

impl From<QualityArg> for Quality {
    fn from(quality: QualityArg) -> Self {
        match quality {
            QualityArg::Draft => Self::Draft,
            QualityArg::Fast => Self::Fast,
            QualityArg::Paper => Self::Paper,
        }
    }
}

/// Solver and guidance.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct SamplingArgs {
    /// Combination of solver and number of steps, instead of the flags for them; not for distilled models
    #[arg(long, value_name = "NAME")]
    #[arg(conflicts_with_all = ["steps", "solver", "order", "times", "warp", "extrapolation"])]
    #[serde(skip)]
    pub quality: Option<QualityArg>,
    /// Number of sampling steps, 1 to 1000000. An MRAR model also takes one per AR step, comma-separated
    /// [default: 100, or 2 for a distilled model]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = whole(1..=MAX_COUNT))]
    #[arg(allow_negative_numbers = true)]
    #[serde(with = "one_or_each")]
    pub steps: Vec<usize>,
    /// Solver for the integration from noise to image [default: euler-maruyama, or consistency for a distilled model]
    #[arg(long, value_name = "NAME")]
    pub solver: Option<SolverArg>,
    /// Order of exponential-sde, 1 or 2, or of adams-bashforth, 2 to 4 [default: 2]
    #[arg(long, value_name = "N", value_parser = whole(1..=4_usize), allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<usize>,
    /// Times of the sampling steps instead of their number: all of them, falling from 1 (noise) to 0
    #[arg(long, value_name = "T,...", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    #[arg(conflicts_with = "steps")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<f64>,
    /// Exponents that warp the times of the sampling steps to 1-(1-(1-u^A)^B)^C, with u from 0 to 1
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    #[arg(conflicts_with = "times")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warp: Vec<f64>,
    /// Extrapolation of the predictions of euler, from 0 to below 1 [default: 0]
    #[arg(long, value_name = "K", value_parser = number, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extrapolation: Option<f64>,
    /// Guidance scale, at least 1; 1 disables guidance, and is all that a distilled model takes. An MRAR model also takes one per AR step, comma-separated
    /// [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "W", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    pub guidance: Vec<f64>,
    /// Times at which guidance is active, 0 <= LOW <= HIGH <= 1; sampling runs from time 1 (noise) to 0
    /// [default: 0,1]
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    pub guidance_interval: Vec<f64>,
    /// Drift scale s0 of euler-maruyama and exponential-sde, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub drift_scale: Option<f64>,
    /// Noise scale s1 of euler-maruyama and exponential-sde, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub noise_scale: Option<f64>,
}

/// A list as serialised data: as its element if it has one, the form of the time when there was always one.
mod one_or_each {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum OneOrEach {
        One(usize),
        Each(Vec<usize>),
    }

    pub fn serialize<S: Serializer>(list: &[usize], serializer: S) -> Result<S::Ok, S::Error> {
        match *list {
            [one] => OneOrEach::One(one).serialize(serializer),
            ref each => OneOrEach::Each(each.to_vec()).serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
        Ok(match OneOrEach::deserialize(deserializer)? {
            OneOrEach::One(one) => vec![one],
            OneOrEach::Each(each) => each,
        })
    }
}

impl SamplingArgs {
    /// The arguments with the value of every setting: what is not given is that of the generator's preset.
    pub fn complete(&self, generator: &GeneratorInfo) -> Result<Self> {
        let settings = self.settings(generator)?;
        let (low, high) = settings.guidance_interval;
        Ok(Self {
            quality: None,
            steps: match settings.schedule {
                Schedule::Steps(steps) | Schedule::Warped(steps, _) => steps,
                // As many as there are times, so that no other number stands beside them.
                Schedule::Times(times) => vec![times.len().saturating_sub(1)],
            },
            solver: Some(settings.solver.into()),
            order: settings.order,
            guidance: settings.guidance,
            guidance_interval: vec![low, high],
            drift_scale: settings.drift_scale,
            noise_scale: settings.noise_scale,
            ..self.clone()
        })
    }

    /// The sampling of a generator: what is not given is that of its preset.
    pub fn build(&self, generator: &GeneratorInfo) -> Result<Sampling> {
        if self.quality.is_some() && generator.distilled {
            let message =
                "--quality: expected none, because the model is distilled; --steps sets its evaluations";
            return Err(message.to_owned().into());
        }
        let sampling = self.settings(generator)?.build(generator.ar_steps)?;
        generator.check_sampling(&sampling)?;
        Ok(sampling)
    }

    /// The given times or numbers of steps, the latter in place of those of `default`.
    fn schedule(&self, default: Schedule) -> Result<Schedule> {
        let steps = match default {
            Schedule::Steps(steps) if self.steps.is_empty() => steps,
            _ => self.steps.clone(),
        };
        Ok(match (&self.times[..], &self.warp[..]) {
            ([], []) => Schedule::Steps(steps),
            ([], &[a, b, c]) => Schedule::Warped(steps, [a, b, c]),
            ([], warp) => {
                return Err(format!("--warp: expected 3 numbers A,B,C, got {}", warp.len()).into());
            }
            (times, _) => Schedule::Times(times.to_vec()),
        })
    }

    fn settings(&self, generator: &GeneratorInfo) -> Result<SamplingSettings> {
        let default = generator.settings();
        let mut settings = match self.quality {
            Some(quality) => Quality::from(quality).apply(default, generator.ar_steps),
            None => {
                let solver = self.solver.map_or(default.solver, SolverKind::from);
                SamplingSettings {
                    schedule: self.schedule(default.schedule.clone())?,
                    order: self.order.or(solver.default_order()),
                    extrapolation: self.extrapolation,
                    ..default.with_solver(solver)
                }
            }
        };
        if !self.guidance.is_empty() {
            settings.guidance.clone_from(&self.guidance);
        }
        settings.guidance_interval = match self.guidance_interval[..] {
            [] => settings.guidance_interval,
            [low, high] => (low, high),
            ref other => {
                let got = other.len();
                return Err(format!("--guidance-interval: expected 2 numbers LOW,HIGH, got {got}").into());
            }
        };
        settings.drift_scale = self.drift_scale.or(settings.drift_scale);
        settings.noise_scale = self.noise_scale.or(settings.noise_scale);
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Manifests from before AR steps had numbers of steps of their own stay as they are, and so do their fingerprints.
    #[test]
    fn settings_of_one_number_of_steps_keep_their_form() {
        let text = r#"{"steps":100,"solver":"heun","guidance":[1.0],"guidance_interval":[0.0,1.0],"drift_scale":null,"noise_scale":null}"#;
        let settings: SamplingArgs = serde_json::from_str(text).unwrap();
        assert_eq!(settings.steps, [100]);
        assert_eq!(serde_json::to_string(&settings).unwrap(), text);
        let each = text.replace("100", "[10,25]");
        let settings: SamplingArgs = serde_json::from_str(&each).unwrap();
        assert_eq!(serde_json::to_string(&settings).unwrap(), each);
    }
}
