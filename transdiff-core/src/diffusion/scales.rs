//! The two scales of stochastic solvers.

use crate::{Error, Result};

/// Drift scale s₀ and noise scale s₁ (paper, Appendix F, Eq. 18).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scales {
    /// s₀, the factor of the drift.
    pub(super) drift: f64,
    /// s₁, the factor of the injected noise.
    pub(super) noise: f64,
}

impl Scales {
    /// # Errors
    /// [`Error::Argument`] unless both are finite and at least 0.
    pub(super) fn new(drift: f64, noise: f64) -> Result<Self> {
        for (name, scale) in [("drift_scale", drift), ("noise_scale", noise)] {
            if !(scale.is_finite() && scale >= 0.0) {
                return Err(Error::argument(name, "a finite number, at least 0", scale));
            }
        }
        Ok(Self { drift, noise })
    }
}
