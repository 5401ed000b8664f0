//! Interpolants between data and noise, x_t = α(t) x₀ + σ(t) ε (paper Eq. 4), and the quantities derived from them
//! (reverse SDE: Appendix F, Eq. 16).
//!
//! A velocity v = E[α′ x₀ + σ′ ε | x] determines, together with x, everything else that a sampler needs: the
//! score, the drift of the reverse SDE and the prediction of x₀. Each is a linear combination of v and x
//! whose two factors depend on t alone, so each is one [`LinearCombination`], computed in f64 once per step.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use crate::{Backend, Result, Tensor};

/// Factors of a linear combination of the velocity and the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCombination {
    /// Factor of the velocity.
    pub v: f64,
    /// Factor of the state.
    pub x: f64,
}

impl LinearCombination {
    /// Returns self.v · v + self.x · x, for tensors of one shape and float type.
    ///
    /// # Errors
    /// Those of tensor arithmetic.
    pub fn apply<B: Backend>(self, v: &Tensor<B>, x: &Tensor<B>) -> Result<Tensor<B>> {
        x.affine(self.x, 0.0)?.add(&v.affine(self.v, 0.0)?)
    }
}

/// Interpolant between data (t = 0) and noise (t = 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interpolant {
    /// α = 1 − t, σ = t: rectified flow (paper Eq. 4), which the published weights were trained with.
    #[default]
    Linear,
    /// α = cos(πt/2), σ = sin(πt/2).
    Cosine,
}

impl Interpolant {
    /// α(t), the factor of the data.
    pub fn alpha(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - t,
            Self::Cosine => libm::cos(FRAC_PI_2 * t),
        }
    }

    /// σ(t), the factor of the noise.
    pub fn sigma(self, t: f64) -> f64 {
        match self {
            Self::Linear => t,
            Self::Cosine => libm::sin(FRAC_PI_2 * t),
        }
    }

    /// α′(t).
    pub fn alpha_derivative(self, t: f64) -> f64 {
        match self {
            Self::Linear => -1.0,
            Self::Cosine => -FRAC_PI_2 * libm::sin(FRAC_PI_2 * t),
        }
    }

    /// σ′(t).
    pub fn sigma_derivative(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Cosine => FRAC_PI_2 * libm::cos(FRAC_PI_2 * t),
        }
    }

    /// ∇ log p_t(x) = ((α/α′) v − x) / (σ² − (α/α′) σ′ σ), for t in (0, 1]; at t = 0 its factors may be infinite.
    ///
    /// Both interpolants simplify it, and the simplified forms have no 0/0: linear −((1 − t) v + x)/t, where the
    /// denominator above is t; cosine −(2/π) cot(πt/2) v − x, where it is 1.
    pub fn score(self, t: f64) -> LinearCombination {
        match self {
            Self::Linear => LinearCombination { v: -(1.0 - t) / t, x: -1.0 / t },
            Self::Cosine => LinearCombination { v: -FRAC_2_PI / libm::tan(FRAC_PI_2 * t), x: -1.0 },
        }
    }

    /// Drift of the reverse SDE, v − ½ g² ∇ log p_t(x) with g² = 2t (paper Eq. 16), for t in [0, 1].
    ///
    /// g² cancels the score's pole at t = 0: linear (2 − t) v + x; cosine (1 + (2t/π) cot(πt/2)) v + t x, whose
    /// first factor tends to 1 + 4/π².
    pub fn drift(self, t: f64) -> LinearCombination {
        match self {
            Self::Linear => LinearCombination { v: 2.0 - t, x: 1.0 },
            Self::Cosine if t == 0.0 => LinearCombination { v: 1.0 + FRAC_2_PI * FRAC_2_PI, x: 0.0 },
            Self::Cosine => LinearCombination { v: 1.0 + FRAC_2_PI * t / libm::tan(FRAC_PI_2 * t), x: t },
        }
    }

    /// Diffusion coefficient g(t) = √(2t) (paper Eq. 16), for t in [0, 1].
    pub fn diffusion(self, t: f64) -> f64 {
        (2.0 * t).sqrt()
    }

    /// Prediction of x₀ (the denoised latents), E[x₀ | x] = (σ′ x − σ v) / (α σ′ − α′ σ), for t in [0, 1]: linear x − t v;
    /// cosine cos(πt/2) x − (2/π) sin(πt/2) v.
    pub fn denoised(self, t: f64) -> LinearCombination {
        match self {
            Self::Linear => LinearCombination { v: -t, x: 1.0 },
            Self::Cosine => LinearCombination { v: -FRAC_2_PI * self.sigma(t), x: self.alpha(t) },
        }
    }

    /// Prediction of the noise, E[ε | x] = (α v − α′ x) / (α σ′ − α′ σ), for t in [0, 1]: linear x + (1 − t) v; cosine
    /// sin(πt/2) x + (2/π) cos(πt/2) v.
    pub fn noise(self, t: f64) -> LinearCombination {
        match self {
            Self::Linear => LinearCombination { v: 1.0 - t, x: 1.0 },
            Self::Cosine => LinearCombination { v: FRAC_2_PI * self.alpha(t), x: self.sigma(t) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERPOLANTS: [Interpolant; 2] = [Interpolant::Linear, Interpolant::Cosine];

    fn times() -> impl Iterator<Item = f64> {
        (1..=200).map(|i| f64::from(i) / 200.0)
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * (1.0 + a.abs().max(b.abs()))
    }

    /// Simplified forms against the general formulas in the documentation.
    #[test]
    fn simplified_forms_equal_the_general_ones() {
        for (interpolant, t) in INTERPOLANTS.into_iter().flat_map(|p| times().map(move |t| (p, t))) {
            let (a, s) = (interpolant.alpha(t), interpolant.sigma(t));
            let (da, ds) = (interpolant.alpha_derivative(t), interpolant.sigma_derivative(t));
            let ratio = a / da;
            let denominator = s * s - ratio * ds * s;
            let score = LinearCombination { v: ratio / denominator, x: -1.0 / denominator };
            let drift = LinearCombination { v: 1.0 - t * score.v, x: -t * score.x };
            let determinant = a * ds - da * s;
            let clean = LinearCombination { v: -s / determinant, x: ds / determinant };
            let noise = LinearCombination { v: a / determinant, x: -da / determinant };
            for (ours, general) in [
                (interpolant.score(t), score),
                (interpolant.drift(t), drift),
                (interpolant.denoised(t), clean),
                (interpolant.noise(t), noise),
            ] {
                assert!(close(ours.v, general.v) && close(ours.x, general.x), "{interpolant:?} t={t}");
            }
        }
    }

    #[test]
    fn derivatives_match_finite_differences() {
        let h = 1e-6;
        for (interpolant, t) in INTERPOLANTS.into_iter().flat_map(|p| times().map(move |t| (p, t))) {
            let slope =
                |f: fn(Interpolant, f64) -> f64| (f(interpolant, t + h) - f(interpolant, t - h)) / (2.0 * h);
            assert!((slope(Interpolant::alpha) - interpolant.alpha_derivative(t)).abs() < 1e-8);
            assert!((slope(Interpolant::sigma) - interpolant.sigma_derivative(t)).abs() < 1e-8);
        }
    }

    #[test]
    fn ends_are_data_and_noise() {
        for interpolant in INTERPOLANTS {
            assert_eq!((interpolant.alpha(0.0), interpolant.sigma(0.0)), (1.0, 0.0));
            assert!(interpolant.alpha(1.0).abs() < 1e-15 && interpolant.sigma(1.0) == 1.0);
            let (at, near) = (interpolant.drift(0.0), interpolant.drift(1e-9));
            assert!((at.v - near.v).abs() < 1e-8 && (at.x - near.x).abs() < 1e-8);
            assert_eq!(interpolant.denoised(0.0), LinearCombination { v: -0.0, x: 1.0 });
        }
    }
}
