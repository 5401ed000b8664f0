//! Velocity fields with known solutions, and other helpers of the sampler tests.

use std::f64::consts::FRAC_PI_2;

use proptest::prelude::*;
use transdiff_core::backend::UnaryOp;
use transdiff_core::diffusion::{ArStep, ConditionalField, Interpolant, NoiseSource, VelocityField};
use transdiff_core::{Backend, Result, Tensor};

/// A field from a closure.
pub struct Field<F>(pub F);

impl<B: Backend, F: Fn(&Tensor<B>, f64) -> Result<Tensor<B>>> VelocityField<B> for Field<F> {
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        (self.0)(x, t)
    }
}

/// Exact velocity of an interpolant for elementwise data N(mean, std²). α, σ and their derivatives are written out here,
/// independently of [`Interpolant`], which is under test.
#[derive(Clone, Copy, Debug)]
pub struct Gaussian {
    pub interpolant: Interpolant,
    pub mean: f64,
    pub std: f64,
}

impl Gaussian {
    /// (α, σ, α′, σ′).
    fn coefficients(&self, t: f64) -> (f64, f64, f64, f64) {
        let (sin, cos) = (FRAC_PI_2 * t).sin_cos();
        match self.interpolant {
            Interpolant::Linear => (1.0 - t, t, -1.0, 1.0),
            Interpolant::Cosine => (cos, sin, -FRAC_PI_2 * sin, FRAC_PI_2 * cos),
        }
    }

    /// Mean and variance of x_t = α x₀ + σ ε.
    pub fn marginal(&self, t: f64) -> (f64, f64) {
        let (a, s, _, _) = self.coefficients(t);
        (a * self.mean, (a * self.std).powi(2) + s * s)
    }

    /// (c, k) of v(x, t) = E[α′ x₀ + σ′ ε | x] = c + k x: x₀ and ε are jointly normal with x, so
    /// k = Cov(α′ x₀ + σ′ ε, x) / Var(x) = (α α′ std² + σ σ′) / Var(x) and c = α′ mean − k α mean.
    pub fn affine(&self, t: f64) -> (f64, f64) {
        let (a, s, da, ds) = self.coefficients(t);
        let k = (a * da * self.std.powi(2) + s * ds) / self.marginal(t).1;
        (da * self.mean - k * a * self.mean, k)
    }

    /// (c, k) of the score −(x − μ_t)/σ_t² = c + k x.
    pub fn score(&self, t: f64) -> (f64, f64) {
        let (mean, var) = self.marginal(t);
        (mean / var, -1.0 / var)
    }
}

impl<B: Backend> VelocityField<B> for Gaussian {
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        let (c, k) = self.affine(t);
        x.affine(k, c)
    }
}

/// dx/dt = (1 + cos 3t)(x − x²): smooth, not linear, solved by separation of variables.
pub struct Logistic;

impl Logistic {
    fn rate(t: f64) -> f64 {
        1.0 + (3.0 * t).cos()
    }

    pub fn slope(x: f64, t: f64) -> f64 {
        Self::rate(t) * (x - x * x)
    }

    /// The state at `t` of the solution that is `x` at 1.
    pub fn exact(x: f64, t: f64) -> f64 {
        let integral = |t: f64| t + (3.0 * t).sin() / 3.0;
        1.0 / (1.0 + (1.0 / x - 1.0) * (integral(1.0) - integral(t)).exp())
    }
}

impl<B: Backend> VelocityField<B> for Logistic {
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        x.sub(&x.unary(UnaryOp::Square)?)?.affine(Self::rate(t), 0.0)
    }
}

/// A small network: v = silu(x W) (1 + t) + c, rows [B, tokens, channels] independent of each other.
pub struct Network<B: Backend> {
    pub weight: Tensor<B>,
    pub condition: f64,
}

impl<B: Backend> ConditionalField<B> for Network<B> {
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        x.matmul(&self.weight)?.unary(UnaryOp::Silu)?.affine(1.0 + t, self.condition)
    }

    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        x.matmul(&self.weight)?.unary(UnaryOp::Silu)?.affine(1.0 - t, 0.0)
    }
}

/// Any interpolant.
pub fn any_interpolant() -> impl Strategy<Value = Interpolant> {
    prop_oneof![Just(Interpolant::Linear), Just(Interpolant::Cosine)]
}

/// A noise source that panics when noise is drawn.
pub struct NoNoise;

impl<B: Backend> NoiseSource<B> for NoNoise {
    fn initial(&mut self, _: &[usize]) -> Result<Tensor<B>> {
        panic!("initial noise was drawn")
    }

    fn injected(&mut self, _: ArStep, step: usize, _: &[usize]) -> Result<Tensor<B>> {
        panic!("noise was drawn in step {step}")
    }
}
