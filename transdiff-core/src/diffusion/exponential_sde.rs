//! The paper's reverse SDE, with its linear part solved exactly.

use super::scales::Scales;
use super::{
    Evaluation, Interpolant, Interval, LinearCombination, NoiseSource, Sampler, SolverState, Timesteps,
    VelocityField,
};
use crate::{Backend, Error, Result};

/// Exponential integrator of the reverse SDE with two scales (Appendix F, Eq. 16–18) on the linear interpolant.
///
/// With v = (x − x̂₀)/t the SDE is dx = s₀ (2 x − (2 − t) x̂₀)/t dt + s₁ √(2t) dW: linear in x, but for the prediction x̂₀. If
/// that is D during the step from t to s < t, the solution is known. With p = 2 s₀ and Λ = ln(t/s):
///
/// x_s = r x_t + c D + √V z, r = e^(−pΛ), c = 1 − r − s₀ s E(1 − p), V = 2 s₁² s² E(2 − 2p), E(a) = (e^(aΛ) − 1)/a.
///
/// Order 1 takes D = x̂₀ at t. Order 2 extrapolates it linearly in λ(t) = ln((1 − t)/t) to the middle of the step, as multistep
/// solvers of second order for data prediction do (DPM-Solver++, arXiv 2211.01095): D = x̂₀ + ½ (h/h₋) (x̂₀ − x̂₀₋), with h and
/// h₋ the lengths in λ of this step and of the one before; where one of them is infinite, in the first two steps, D is of order 1.
/// The last step, to 0, ends at x̂₀.
///
/// The noise level of data at one point is exact at any number of steps. With s₁ = 0 no noise is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct ExponentialSde {
    pub(super) timesteps: Timesteps,
    order: usize,
    scales: Scales,
}

impl ExponentialSde {
    /// The solver with drift scale s₀ and noise scale s₁.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `order` is 1 or 2, and both scales are finite and at least 0.
    pub fn new(timesteps: Timesteps, order: usize, drift_scale: f64, noise_scale: f64) -> Result<Self> {
        if !(1..=2).contains(&order) {
            return Err(Error::argument("order", "1 or 2 for exponential-sde", order));
        }
        Ok(Self { timesteps, order, scales: Scales::new(drift_scale, noise_scale)? })
    }

    /// Order of the prediction D.
    pub fn order(&self) -> usize {
        self.order
    }

    /// s₀, the factor of the drift.
    pub fn drift_scale(&self) -> f64 {
        self.scales.drift
    }

    /// s₁, the factor of the injected noise.
    pub fn noise_scale(&self) -> f64 {
        self.scales.noise
    }

    /// The factor ½ h/h₋ of the extrapolation in the step from `t` to `next`, after one from `previous`; `None` where it is of
    /// order 1.
    fn extrapolation(&self, previous: Option<f64>, t: f64, next: f64) -> Option<f64> {
        let previous = previous.filter(|_| self.order == 2)?;
        let lambda = |t: f64| libm::log((1.0 - t) / t);
        let factor = 0.5 * (lambda(next) - lambda(t)) / (lambda(t) - lambda(previous));
        // λ(1) is infinite: it makes the factor 0 in the step after the first.
        (factor.is_finite() && factor != 0.0).then_some(factor)
    }
}

/// The prediction x̂₀ of an evaluation, times `factor`.
fn denoised<B: Backend>(evaluation: &Evaluation<B>, factor: f64) -> LinearCombination {
    let LinearCombination { v, x } = Interpolant::Linear.denoised(evaluation.t);
    LinearCombination { v: factor * v, x: factor * x }
}

impl<B: Backend> Sampler<B> for ExponentialSde {
    fn timesteps(&self) -> &Timesteps {
        &self.timesteps
    }

    fn interpolant(&self) -> Interpolant {
        Interpolant::Linear
    }

    fn step(
        &self,
        i: usize,
        state: &mut SolverState<B>,
        field: &dyn VelocityField<B>,
        noise: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        let Interval { t, next, is_final, .. } = self.timesteps.interval(i);
        let v = state.evaluate(field, t, self.order)?;
        if is_final {
            state.x = Interpolant::Linear.denoised(t).apply(&v, &state.x)?;
            return Ok(());
        }
        let Scales { drift: s0, noise: s1 } = self.scales;
        let (p, length) = (2.0 * s0, libm::log(t / next));
        let integral = |a: f64| if a == 0.0 { length } else { libm::expm1(a * length) / a };
        let r = libm::exp(-p * length);
        let c = 1.0 - r - s0 * next * integral(1.0 - p);
        let history = state.history();
        let (current, previous) = (&history[history.len() - 1], history.iter().rev().nth(1));
        let extrapolation = self.extrapolation(previous.map(|evaluation| evaluation.t), t, next);
        // r x + c D, the factors of v and x collected in f64.
        let LinearCombination { v: factor, x } = denoised(current, c * (1.0 + extrapolation.unwrap_or(0.0)));
        let mut moved = LinearCombination { v: factor, x: r + x }.apply(&v, &state.x)?;
        if let (Some(extrapolation), Some(previous)) = (extrapolation, previous) {
            moved = moved.add(&denoised(previous, -c * extrapolation).apply(&previous.v, &previous.x)?)?;
        }
        let deviation = if s1 == 0.0 { 0.0 } else { s1 * next * (2.0 * integral(2.0 - 2.0 * p)).sqrt() };
        state.x = state.with_noise(moved, noise, i, deviation)?;
        Ok(())
    }
}
