//! Times of a sampler's steps from noise (t = 1) to data (t = 0).

use std::sync::Arc;

use crate::{Error, Result};

/// Length of the final step of the paper's sampler.
const FINAL_STEP: f64 = 0.04;
/// Length of the shortest step: shorter ones could vanish by rounding.
const MIN_STEP: f64 = 1e-12;
/// Largest number of warped times, which are held in memory.
const MAX_WARPED: usize = 1_000_000;

/// The times between which a step is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Time at which the step begins.
    pub t: f64,
    /// Time at which it ends, below `t`.
    pub next: f64,
    /// next − t, negative.
    pub dt: f64,
    /// True for the step that ends at t = 0.
    pub is_final: bool,
}

/// Times from 1 to 0, between which the steps are made. They fall strictly.
#[derive(Clone, Debug, PartialEq)]
pub struct Timesteps(Times);

#[derive(Clone, Debug, PartialEq)]
enum Times {
    /// t_i = 1 − i/n, in f64.
    Uniform { steps: u32 },
    /// t_i = 1 − (1 − last) · i/(n − 1) for i = 0..n−1 and t_n = 0, in f64; n = 1 is one step from 1 to 0.
    FinalStep { steps: u32, last: f64 },
    /// All times, the final 0 included.
    Listed(Arc<[f64]>),
}

impl Timesteps {
    /// The paper's timesteps: t_i = 1 − 0.96 · i/(n − 1), then 0. The final step, 0.04 → 0, is the denoising one.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ steps < 2³².
    pub fn paper(steps: usize) -> Result<Self> {
        Self::with_final_step(steps, FINAL_STEP)
    }

    /// Steps of equal length: t_i = 1 − i/n, for deterministic solvers. The paper's final step does not shrink with n,
    /// and neither would their error.
    ///
    /// # Errors
    /// As [`paper`](Self::paper).
    pub fn uniform(steps: usize) -> Result<Self> {
        Ok(Self(Times::Uniform { steps: count(steps)? }))
    }

    /// Equal steps between n times from 1 to `last`, then from `last` to 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ steps < 2³², and every step is longer than 10⁻¹².
    pub fn with_final_step(steps: usize, last: f64) -> Result<Self> {
        let steps = count(steps)?;
        let valid = match steps {
            1 => last <= 1.0,
            n => (1.0 - last) / f64::from(n - 1) > MIN_STEP,
        };
        if !valid || last.is_nan() || last <= MIN_STEP {
            return Err(Error::argument(
                "last",
                "a length within (0, 1) that leaves time for the other steps",
                last,
            ));
        }
        Ok(Self(Times::FinalStep { steps, last }))
    }

    /// Any times: that of every step, and the final 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are at least two times, which fall from 1 to 0 by more than 10⁻¹² each.
    pub fn listed(times: impl Into<Arc<[f64]>>) -> Result<Self> {
        let times = times.into();
        let refused = |got: String| {
            Err(Error::argument("times", "times that fall from 1 to 0 by more than 1e-12 each", got))
        };
        match times[..] {
            [] | [_] => return refused(format!("{} of them", times.len())),
            [first, ..] if first != 1.0 => return refused(format!("the first {first}")),
            [.., last] if last != 0.0 => return refused(format!("the last {last}")),
            _ => {}
        }
        // NaN is not longer than any length.
        let is_long = |pair: &[f64]| pair[0] - pair[1] > MIN_STEP;
        match times.windows(2).find(|pair| !is_long(pair)) {
            Some(pair) => refused(format!("{} after {}", pair[1], pair[0])),
            None => Ok(Self(Times::Listed(times))),
        }
    }

    /// Warped times, t_i = 1 − (1 − (1 − uᵃ)ᵇ)ᶜ with u = i/n: a distribution function of Kumaraswamy's family, which UCGM
    /// (arXiv 2505.07447) shapes its times with. (1, 1, 1) is [`uniform`](Self::uniform) up to rounding.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ steps ≤ 10⁶, all exponents are finite and above 0, and every step is longer than 10⁻¹².
    pub fn warped(steps: usize, [a, b, c]: [f64; 3]) -> Result<Self> {
        if !(1..=MAX_WARPED).contains(&steps) {
            return Err(Error::argument("steps", format!("1 to {MAX_WARPED} for warped times"), steps));
        }
        if let Some(&bad) = [a, b, c].iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            return Err(Error::argument("warp", "finite exponents above 0", bad));
        }
        let warped = |u: f64| 1.0 - libm::pow(1.0 - libm::pow(1.0 - libm::pow(u, a), b), c);
        let times: Vec<f64> = (0..=steps).map(|i| warped(i as f64 / steps as f64)).collect();
        Self::listed(times).map_err(|_| {
            let expected = format!("exponents that keep the times of {steps} steps apart");
            Error::argument("warp", expected, format!("{a}, {b}, {c}"))
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        match &self.0 {
            Times::Uniform { steps } | Times::FinalStep { steps, .. } => *steps as usize,
            Times::Listed(times) => times.len() - 1,
        }
    }

    /// Time at which step `i` begins; 0 from `i = steps()` on.
    pub fn time(&self, i: usize) -> f64 {
        let steps = self.steps();
        match &self.0 {
            _ if i >= steps => 0.0,
            Times::Listed(times) => times[i],
            // In this order of operations: where an end of the interval of guidance is one of the times, rounding decides.
            Times::Uniform { .. } => 1.0 - i as f64 / steps as f64,
            Times::FinalStep { .. } if i == 0 => 1.0,
            Times::FinalStep { last, .. } if i + 1 == steps => *last,
            Times::FinalStep { last, .. } => 1.0 - (1.0 - last) * i as f64 / (steps - 1) as f64,
        }
    }

    /// The times between which step `i` is made.
    pub fn interval(&self, i: usize) -> Interval {
        let (t, next) = (self.time(i), self.time(i + 1));
        Interval { t, next, dt: next - t, is_final: i + 1 == self.steps() }
    }

    /// All n + 1 times, the final 0 included.
    pub fn times(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=self.steps()).map(|i| self.time(i))
    }
}

fn count(steps: usize) -> Result<u32> {
    let count = u32::try_from(steps).ok().filter(|&n| n > 0);
    count.ok_or_else(|| Error::argument("steps", "1 to 4294967295", steps))
}
