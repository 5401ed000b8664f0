//! Position of a step within a generation.

use crate::{Error, Result};

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

    /// The element for this AR step of a list of one for all AR steps or one for each, whose elements are called `each`.
    ///
    /// # Errors
    /// [`Error::Argument`] for `name` if the list is neither.
    pub(super) fn choose<'a, T>(&self, list: &'a [T], name: &'static str, each: &str) -> Result<&'a T> {
        match list {
            [one] => Ok(one),
            list if list.len() == self.count && self.index < self.count => Ok(&list[self.index]),
            _ => Err(one_or_each(name, each, self.count, list.len())),
        }
    }
}

/// Error of a list that has neither one element nor one for each AR step.
pub(super) fn one_or_each(name: &'static str, each: &str, ar_steps: usize, got: usize) -> Error {
    let expected = match ar_steps {
        1 => format!("1 {each}"),
        n => format!("1 {each}, or {n} (one per AR step)"),
    };
    Error::argument(name, expected, got)
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
    /// Number of steps of all AR steps that were run before.
    pub before: usize,
    /// Number of steps of all AR steps that are run.
    pub all: usize,
    /// Time in (0, 1] at which the step began.
    pub t: f64,
}

impl SamplingStep {
    /// Completed share of the steps of the generation, in (0, 1].
    pub fn fraction(&self) -> f64 {
        (self.before + self.done) as f64 / self.all as f64
    }

    /// Returns `true` if this is the last step of the generation.
    pub fn is_last(&self) -> bool {
        self.done == self.total && self.ar_step.is_last()
    }
}
