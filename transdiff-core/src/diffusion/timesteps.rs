//! Times of a sampler's steps from noise (t = 1) to data (t = 0).

use crate::{Error, Result};

/// Length of the final step of the paper's sampler.
const FINAL_STEP: f64 = 0.04;

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

/// n steps: between n equally spaced times from 1 to `last`, then from `last` to 0.
///
/// t_i = 1 − (1 − last) · i/(n − 1) for i = 0..n−1 and t_n = 0, in f64; n = 1 is one step from 1 to 0. Times decrease
/// strictly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timesteps {
    steps: u32,
    last: f64,
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
        Self::with_final_step(steps, 1.0 / steps.max(1) as f64)
    }

    /// A final step of length `last`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ steps < 2³², and 0 < last < 1 (with one step: last ≤ 1).
    pub fn with_final_step(steps: usize, last: f64) -> Result<Self> {
        let count = u32::try_from(steps).ok().filter(|&n| n > 0);
        let count = count.ok_or_else(|| Error::argument("steps", "1 to 4294967295", steps))?;
        // Below this, times of so many steps could coincide.
        let valid = last > 1e-12 && (last < 1.0 || (last == 1.0 && steps == 1));
        if !valid {
            return Err(Error::argument("last", "a length within (0, 1)", last));
        }
        Ok(Self { steps: count, last })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps as usize
    }

    /// Time at which step `i` begins; 0 from `i = steps()` on.
    pub fn time(&self, i: usize) -> f64 {
        let last = self.steps() - 1;
        match i {
            0 => 1.0,
            _ if i < last => {
                let share = i as f64 / last as f64;
                // Not 1 − (1 − last)·share: the form below meets `last` exactly.
                (1.0 - share) + self.last * share
            }
            _ if i == last => self.last,
            _ => 0.0,
        }
    }

    /// The times between which step `i` is made.
    pub fn interval(&self, i: usize) -> Interval {
        let (t, next) = (self.time(i), self.time(i + 1));
        Interval { t, next, dt: next - t, is_final: i + 1 == self.steps() }
    }

    /// All n + 1 times, the final 0 included.
    pub fn times(&self) -> impl Iterator<Item = f64> + use<> {
        let this = *self;
        (0..=this.steps()).map(move |i| this.time(i))
    }
}
