//! The times at which a sampler stops on its way from noise (t = 1) to data (t = 0).

use crate::{Error, Result};

/// Length of the last step of the paper's sampler.
const LAST_STEP: f64 = 0.04;

/// n steps: from n equally spaced times between 1 and `last` to the next, then from `last` to 0.
///
/// t_i = 1 − (1 − last) · i/(n − 1) for i = 0..n−1 and t_n = 0, in f64; n = 1 goes from 1 to 0 at once. Times fall
/// strictly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timesteps {
    steps: u32,
    last: f64,
}

impl Timesteps {
    /// The paper's times: t_i = 1 − 0.96 · i/(n − 1), then 0. The last step, 0.04 → 0, is the denoising one.
    ///
    /// # Errors
    /// [`Error::Argument`] unless 1 ≤ steps < 2³².
    pub fn paper(steps: usize) -> Result<Self> {
        Self::with_final_step(steps, LAST_STEP)
    }

    /// Steps of equal length: t_i = 1 − i/n. What deterministic solvers want: the paper's last step does not
    /// shrink with n, and with it the error would not either.
    ///
    /// # Errors
    /// As [`paper`](Self::paper).
    pub fn uniform(steps: usize) -> Result<Self> {
        Self::with_final_step(steps, 1.0 / steps.max(1) as f64)
    }

    /// A last step of length `last`.
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

    /// The time before step `i`; 0 from `i = steps()` on.
    pub fn time(&self, i: usize) -> f64 {
        let last = self.steps() - 1;
        match i {
            0 => 1.0,
            _ if i < last => {
                let share = i as f64 / last as f64;
                // Not 1 − (1 − last)·share: the form below meets `last` to the bit.
                (1.0 - share) + self.last * share
            }
            _ if i == last => self.last,
            _ => 0.0,
        }
    }

    /// All n + 1 times, the final 0 included.
    pub fn times(&self) -> impl Iterator<Item = f64> + use<> {
        let this = *self;
        (0..=this.steps()).map(move |i| this.time(i))
    }
}
