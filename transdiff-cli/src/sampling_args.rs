//! Command-line arguments of sampling, shared by the commands that generate images.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use transdiff::diffusion::{Preset, Sampling, SamplingSettings, SolverKind};
use transdiff::models::GeneratorInfo;
use transdiff_terminal::{MAX_COUNT, number, whole};

use crate::failure::Result;

/// Solver for the sampling ODE or SDE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SolverArg {
    /// Stochastic solver of the paper, with drift and noise scales
    EulerMaruyama,
    /// Deterministic, first order
    Euler,
    /// Deterministic, second order; two model evaluations per step
    Heun,
}

impl From<SolverArg> for SolverKind {
    fn from(solver: SolverArg) -> Self {
        match solver {
            SolverArg::EulerMaruyama => Self::EulerMaruyama,
            SolverArg::Euler => Self::Euler,
            SolverArg::Heun => Self::Heun,
        }
    }
}

/// Solver and guidance.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct SamplingArgs {
    /// Number of sampling steps, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = Preset::STEPS, value_parser = whole(1..=MAX_COUNT))]
    #[arg(allow_negative_numbers = true)]
    pub steps: usize,
    /// Solver for the integration from noise to image
    #[arg(long, value_name = "NAME", default_value = "euler-maruyama")]
    pub solver: SolverArg,
    /// Guidance scale, at least 1; 1 disables guidance. An MRAR model also takes one per AR step, comma-separated
    /// [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "W", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    pub guidance: Vec<f64>,
    /// Times at which guidance is active, 0 <= LOW <= HIGH <= 1; sampling runs from time 1 (noise) to 0
    /// [default: 0,1]
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', value_parser = number, allow_hyphen_values = true)]
    pub guidance_interval: Vec<f64>,
    /// Drift scale s0 of euler-maruyama, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub drift_scale: Option<f64>,
    /// Noise scale s1 of euler-maruyama, at least 0 [default: the paper's for published models, otherwise 1]
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub noise_scale: Option<f64>,
}

impl SamplingArgs {
    /// The arguments with the value of every setting: what is not given is that of the generator's preset.
    pub fn complete(&self, generator: &GeneratorInfo) -> Result<Self> {
        let settings = self.settings(generator)?;
        let (low, high) = settings.guidance_interval;
        Ok(Self {
            guidance: settings.guidance,
            guidance_interval: vec![low, high],
            drift_scale: settings.drift_scale,
            noise_scale: settings.noise_scale,
            ..self.clone()
        })
    }

    /// The sampling of a generator: what is not given is that of its preset.
    pub fn build(&self, generator: &GeneratorInfo) -> Result<Sampling> {
        Ok(self.settings(generator)?.build(generator.ar_steps)?)
    }

    fn settings(&self, generator: &GeneratorInfo) -> Result<SamplingSettings> {
        let solver = SolverKind::from(self.solver);
        let mut settings =
            SamplingSettings::from(generator.preset).with_solver(solver).with_steps(self.steps);
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
