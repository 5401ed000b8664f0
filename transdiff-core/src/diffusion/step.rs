//! Position of a step within a generation.

/// One autoregressive (AR) step of a generation: a 1-step model has one; with MRAR each but the last generates a
/// reference, and given references replace the first of them. All start from the same initial noise; injected noise is
/// fresh in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArStep {
    /// Index, from 0.
    pub index: usize,
    /// Number of AR steps of the generation.
    pub count: usize,
    /// Number of leading AR steps that are not run because their results were given as references.
    pub given: usize,
}

impl ArStep {
    /// The AR step of a generation that has only one.
    pub const ONLY: Self = Self { index: 0, count: 1, given: 0 };

    /// Returns `true` if this is the last AR step of the generation.
    pub fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }
}

/// A completed sampling step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingStep {
    /// The AR step that it belongs to.
    pub ar_step: ArStep,
    /// Number of completed steps of the AR step, from 1 to `total`.
    pub done: usize,
    /// Number of steps of the AR step.
    pub total: usize,
    /// Time in (0, 1] at which the step began.
    pub t: f64,
}

impl SamplingStep {
    /// Completed share of the generation, in (0, 1]. Every AR step that is run counts alike.
    pub fn fraction(&self) -> f64 {
        let ArStep { index, count, given } = self.ar_step;
        ((index - given) as f64 + self.done as f64 / self.total as f64) / (count - given) as f64
    }

    /// Returns `true` if this is the last step of the generation.
    pub fn is_last(&self) -> bool {
        self.done == self.total && self.ar_step.is_last()
    }
}
