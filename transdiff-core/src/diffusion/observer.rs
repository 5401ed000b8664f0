//! Watching a sampler, and stopping it.

use std::ops::ControlFlow;

use super::{ArStep, Interpolant};
use crate::{Backend, Result, Tensor};

/// A step that was just done.
#[derive(Debug)]
pub struct Progress<'a, B: Backend> {
    /// Which trajectory of the generation is running.
    pub ar_step: ArStep,
    /// How many steps of the trajectory are done, from 1 to `steps`.
    pub step: usize,
    /// How many steps the trajectory has.
    pub steps: usize,
    /// The time in (0, 1] from which the step was made.
    pub t: f64,
    pub(super) interpolant: Interpolant,
    pub(super) x: &'a Tensor<B>,
    pub(super) v: &'a Tensor<B>,
}

impl<B: Backend> Progress<'_, B> {
    /// The clean latent as predicted at time [`t`](Self::t), in the shape of the sampler's state (see
    /// [`Interpolant::clean`]). Computed when asked for.
    ///
    /// # Errors
    /// Those of tensor arithmetic.
    pub fn preview(&self) -> Result<Tensor<B>> {
        self.interpolant.clean(self.t).apply(self.v, self.x)
    }

    /// Share of the whole generation that is done, in (0, 1], with every trajectory that is run counted alike.
    pub fn fraction(&self) -> f64 {
        let ArStep { index, count, given } = self.ar_step;
        ((index - given) as f64 + self.step as f64 / self.steps as f64) / (count - given) as f64
    }
}

/// Sees every step; closures are observers.
pub trait Observer<B: Backend> {
    /// Called once after each step. `Break` stops the sampler with [`Error::Cancelled`](crate::Error::Cancelled).
    fn step(&mut self, progress: &Progress<'_, B>) -> ControlFlow<()>;
}

/// Sees nothing and lets everything pass.
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
