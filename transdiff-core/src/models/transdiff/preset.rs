//! The settings with which the paper reports its results.

use super::{Mode, Size, TransDiffConfig};
use crate::Result;
use crate::diffusion::{EulerMaruyama, Guidance, Interpolant, Timesteps};

/// Guidance and scales of one published model (arXiv 2506.09482, Appendix F and the released sampling scripts);
/// always the linear path and guidance at all times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// Guidance weight w.
    pub guidance: f64,
    /// s₀, the factor of the drift.
    pub drift_scale: f64,
    /// s₁, the factor of the injected noise.
    pub noise_scale: f64,
}

impl Preset {
    /// Base, 256 px, 1-step.
    pub const BASE: Self = Self::new(1.30, 0.87, 0.91);
    /// Large, 256 px, 1-step.
    pub const LARGE: Self = Self::new(1.30, 0.89, 0.95);
    /// Huge, 256 px, 1-step.
    pub const HUGE: Self = Self::new(1.23, 0.87, 0.93);
    /// Base, 256 px, MRAR.
    pub const BASE_MRAR: Self = Self::new(1.30, 0.87, 0.91);
    /// Large, 256 px, MRAR.
    pub const LARGE_MRAR: Self = Self::new(1.30, 0.925, 0.95);
    /// Huge, 256 px, MRAR.
    pub const HUGE_MRAR: Self = Self::new(1.28, 0.87, 0.91);
    /// Large, 512 px.
    pub const LARGE_512: Self = Self::new(1.30, 0.87, 0.87);
    /// The sampler without changes, and no guidance: for models of other sizes.
    pub const PLAIN: Self = Self::new(1.0, 1.0, 1.0);
    /// Number of steps of every published result.
    pub const STEPS: usize = 100;

    const fn new(guidance: f64, drift_scale: f64, noise_scale: f64) -> Self {
        Self { guidance, drift_scale, noise_scale }
    }

    /// The settings of the published model of these sizes, if there is one. Models for 512 px have those of the one
    /// that was published, whatever their size.
    pub fn of(config: &TransDiffConfig) -> Option<Self> {
        let published = |size| TransDiffConfig::preset(size, 16 * config.latent_size, config.mode);
        let is = |size: &Size| {
            published(*size)
                .is_ok_and(|c| (c.width, c.encoder_blocks) == (config.width, config.encoder_blocks))
        };
        let size = [Size::Base, Size::Large, Size::Huge].into_iter().find(is)?;
        Some(match (size, config.mode) {
            _ if config.latent_size >= 32 => Self::LARGE_512,
            (Size::Base, Mode::OneStep) => Self::BASE,
            (Size::Large, Mode::OneStep) => Self::LARGE,
            (Size::Huge, Mode::OneStep) => Self::HUGE,
            (Size::Base, _) => Self::BASE_MRAR,
            (Size::Large, _) => Self::LARGE_MRAR,
            (Size::Huge, _) => Self::HUGE_MRAR,
        })
    }

    /// The sampler of `steps` steps.
    ///
    /// # Errors
    /// Those of [`Timesteps::paper`] and [`EulerMaruyama::new`].
    pub fn sampler(&self, steps: usize) -> Result<EulerMaruyama> {
        EulerMaruyama::new(Timesteps::paper(steps)?, Interpolant::Linear, self.drift_scale, self.noise_scale)
    }

    /// The guidance, at all times.
    ///
    /// # Errors
    /// Those of [`Guidance::new`].
    pub fn guidance(&self) -> Result<Guidance> {
        Guidance::new(self.guidance)
    }
}
