//! The settings with which the paper reports its results.

use super::{Mode, Size, TransDiffConfig};
use crate::diffusion::Preset;

/// Guidance and scales of the published models (arXiv 2506.09482, Appendix F and the released sampling scripts); always
/// the linear interpolant and guidance at all times.
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
}

impl TransDiffConfig {
    /// Settings of the published model of these sizes, if there is one; none for a distilled model. Models for 512 px have those of the one that was
    /// published, whatever their size.
    pub fn preset(&self) -> Option<Preset> {
        if self.distilled {
            return None;
        }
        let published = |size| TransDiffConfig::published(size, 16 * self.latent_size, self.mode);
        let is = |size: &Size| {
            published(*size).is_ok_and(|c| (c.width, c.encoder_blocks) == (self.width, self.encoder_blocks))
        };
        let size = [Size::Base, Size::Large, Size::Huge].into_iter().find(is)?;
        Some(match (size, self.mode) {
            _ if self.latent_size >= 32 => Preset::LARGE_512,
            (Size::Base, Mode::OneStep) => Preset::BASE,
            (Size::Large, Mode::OneStep) => Preset::LARGE,
            (Size::Huge, Mode::OneStep) => Preset::HUGE,
            (Size::Base, _) => Preset::BASE_MRAR,
            (Size::Large, _) => Preset::LARGE_MRAR,
            (Size::Huge, _) => Preset::HUGE_MRAR,
        })
    }
}
