//! The interface of solvers.

use std::ops::ControlFlow;

use super::{
    ArStep, Interpolant, NoiseSource, Observer, Progress, SamplingStep, SolverState, Timesteps, VelocityField,
};
use crate::{Backend, Error, Result, Tensor};

/// A solver that integrates a velocity field from t = 1 to t = 0.
///
/// It holds settings only; everything that changes is in the [`SolverState`]. One value serves any number of
/// integrations and threads, and a cancelled integration leaves nothing behind.
pub trait Sampler<B: Backend> {
    /// Times of the steps.
    fn timesteps(&self) -> &Timesteps;

    /// Interpolant of the fields that it integrates.
    fn interpolant(&self) -> Interpolant;

    /// Step `i`: takes `state` from the time of step `i` to that of step `i + 1`. `noise` is drawn from for injected
    /// noise only.
    ///
    /// # Errors
    /// [`Error::Shape`] if a velocity or a noise does not have the shape of x, and those of field, noise and backend.
    fn step(
        &self,
        i: usize,
        state: &mut SolverState<B>,
        field: &dyn VelocityField<B>,
        noise: &mut dyn NoiseSource<B>,
    ) -> Result<()>;

    /// Prediction of x₀ (the denoised latents) from the latest evaluation (see [`Interpolant::denoised`]).
    ///
    /// # Errors
    /// [`Error::Argument`] before the first step, and those of tensor arithmetic.
    fn preview(&self, state: &SolverState<B>) -> Result<Tensor<B>> {
        let latest = state.latest();
        let latest =
            latest.ok_or_else(|| Error::argument("preview", "at least one completed step", "none"))?;
        self.interpolant().denoised(latest.t).apply(&latest.v, &latest.x)
    }

    /// The state at t = 0 after the last step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if it holds a NaN or an infinity.
    fn finish(&self, state: SolverState<B>) -> Result<Tensor<B>> {
        if state.x.is_finite()? { Ok(state.x) } else { Err(Error::NonFinite { stage: "sampler" }) }
    }

    /// Integrates `field` from `x`, the state at t = 1, to t = 0. `x` comes from the caller, usually from
    /// [`NoiseSource::initial`].
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `observer` breaks, and those of [`SolverState::new`], [`step`](Self::step) and
    /// [`finish`](Self::finish).
    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        let timesteps = self.timesteps();
        let mut state = SolverState::new(x, ar_step)?;
        let (total, ArStep { index, count, given }) = (timesteps.steps(), ar_step);
        // The sampler of one AR step takes those of others to have as many steps.
        let [before, all] = [index - given, count - given].map(|ar_steps| ar_steps.saturating_mul(total));
        for i in 0..total {
            self.step(i, &mut state, field, noise)?;
            let step = SamplingStep { ar_step, done: i + 1, total, before, all, t: timesteps.time(i) };
            let preview = || self.preview(&state);
            if let ControlFlow::Break(()) = observer.step(&Progress::new(step, &preview)) {
                return Err(Error::Cancelled);
            }
        }
        self.finish(state)
    }
}
