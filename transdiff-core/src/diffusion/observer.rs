//! Observing a generation, and stopping it.

use std::fmt;
use std::ops::ControlFlow;

use super::SamplingStep;
use crate::{Backend, Result, Tensor};

/// Progress of a generation after a completed step.
pub struct Progress<'a, B: Backend> {
    /// The completed step.
    pub step: SamplingStep,
    preview: &'a dyn Fn() -> Result<Tensor<B>>,
}

impl<'a, B: Backend> Progress<'a, B> {
    /// Progress after `step`, with the function that computes a preview.
    pub fn new(step: SamplingStep, preview: &'a dyn Fn() -> Result<Tensor<B>>) -> Self {
        Self { step, preview }
    }

    /// Prediction of x₀ (the denoised latents) at this step, in the shape of the result. Computed on demand.
    ///
    /// # Errors
    /// Those of tensor arithmetic.
    pub fn preview(&self) -> Result<Tensor<B>> {
        (self.preview)()
    }

    /// Completed share of the generation, in (0, 1].
    pub fn fraction(&self) -> f64 {
        self.step.fraction()
    }
}

impl<B: Backend> fmt::Debug for Progress<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("step", &self.step).finish_non_exhaustive()
    }
}

/// Callback after each step; closures implement it.
pub trait Observer<B: Backend> {
    /// Called once after each step. `Break` stops the generation with [`Error::Cancelled`](crate::Error::Cancelled).
    fn step(&mut self, progress: &Progress<'_, B>) -> ControlFlow<()>;
}

/// Observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopObserver;

impl<B: Backend> Observer<B> for NoopObserver {
    fn step(&mut self, _: &Progress<'_, B>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<B: Backend, F: FnMut(&Progress<'_, B>) -> ControlFlow<()>> Observer<B> for F {
    fn step(&mut self, progress: &Progress<'_, B>) -> ControlFlow<()> {
        self(progress)
    }
}
