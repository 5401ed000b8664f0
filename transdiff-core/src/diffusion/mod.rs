//! From noise to latents: integrating a velocity field.
//!
//! A [`Sampler`] takes a state at t = 1 to t = 0 along a [`VelocityField`]. Guidance is a field around a field
//! ([`Guided`]), noise comes from a [`NoiseSource`], and an [`Observer`] sees every step and may stop it. All
//! factors are computed in f64 on the host; tensors only meet additions and multiplications by them. Axis 0 of
//! every tensor is the batch, and no operation mixes its rows: on a backend whose rows are independent, an image is
//! bit-equal alone and in any batch.
//!
//! Source: arXiv 2506.09482, Eq. 3–4 (flow) and Appendix F, Eq. 16–18 (reverse SDE, Euler–Maruyama, two scales).

mod euler_maruyama;
mod field;
mod guidance;
mod interpolant;
mod noise;
mod observer;
mod ode;
mod timesteps;

use std::ops::ControlFlow;

pub use euler_maruyama::EulerMaruyama;
pub use field::{GuidedField, VelocityField};
pub use guidance::{Guidance, Guided};
pub use interpolant::{Interpolant, LinearCombination};
pub use noise::{KeyedNoise, NoiseSource, RecordedNoise};
pub use observer::{NoopObserver, Observer, Progress};
pub use ode::{Euler, Heun};
pub use timesteps::Timesteps;

use crate::{Backend, Error, Result, Tensor};

/// Which of the trajectories of one generation this is: a 1-step model runs one, MRAR one for each reference and
/// one for the result. They share the starting noise; injected noise is fresh in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArStep {
    /// Counted from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// How many of them, the first ones, are not run: what they would end in was given.
    pub given: usize,
}

impl ArStep {
    /// The only one.
    pub const ONLY: Self = Self { index: 0, count: 1, given: 0 };
}

/// Takes a state from t = 1 to t = 0. Holds settings and no state: one value serves any number of calls, threads
/// included, and a call that was cancelled leaves nothing behind.
pub trait Sampler<B: Backend> {
    /// The times of the steps.
    fn timesteps(&self) -> Timesteps;

    /// Integrates `field` from `x`, the state at t = 1 (any shape with the batch on axis 0, a float type; f32
    /// where a model computes in bf16), and returns the state at t = 0 in the shape and type of `x`. `noise` is
    /// asked for what is injected only: where `x` comes from is the caller's choice, usually
    /// [`NoiseSource::starting`].
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `observer` breaks; [`Error::NonFinite`] if the result holds a NaN or an infinity;
    /// [`Error::Shape`] if a velocity or a noise is not of the shape of `x`; [`Error::DType`] if `x` is not of a
    /// float type; [`Error::Argument`] if `ar_step` has no such index; and whatever field, noise and backend meet.
    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>>;
}

/// A sampler chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// The paper's stochastic sampler.
    EulerMaruyama(EulerMaruyama),
    /// Deterministic, order 1.
    Euler(Euler),
    /// Deterministic, order 2.
    Heun(Heun),
}

impl From<EulerMaruyama> for Solver {
    fn from(sampler: EulerMaruyama) -> Self {
        Self::EulerMaruyama(sampler)
    }
}

impl From<Euler> for Solver {
    fn from(sampler: Euler) -> Self {
        Self::Euler(sampler)
    }
}

impl From<Heun> for Solver {
    fn from(sampler: Heun) -> Self {
        Self::Heun(sampler)
    }
}

impl Solver {
    /// The times of the steps.
    pub fn timesteps(&self) -> Timesteps {
        match self {
            Self::EulerMaruyama(s) => s.timesteps(),
            Self::Euler(s) => s.timesteps,
            Self::Heun(s) => s.timesteps,
        }
    }
}

impl<B: Backend> Sampler<B> for Solver {
    fn timesteps(&self) -> Timesteps {
        self.timesteps()
    }

    fn sample(
        &self,
        field: &dyn VelocityField<B>,
        x: Tensor<B>,
        ar_step: ArStep,
        noise: &mut dyn NoiseSource<B>,
        observer: &mut dyn Observer<B>,
    ) -> Result<Tensor<B>> {
        match self {
            Self::EulerMaruyama(s) => s.sample(field, x, ar_step, noise, observer),
            Self::Euler(s) => s.sample(field, x, ar_step, noise, observer),
            Self::Heun(s) => s.sample(field, x, ar_step, noise, observer),
        }
    }
}

/// One step, for the function that makes it.
#[derive(Clone, Copy)]
struct Step {
    index: usize,
    /// The time before the step, and after it.
    t: f64,
    next: f64,
    /// next − t; negative: time falls.
    dt: f64,
    is_last: bool,
}

/// The loop that all samplers share: `advance(step, x, v)` returns the state after the step.
fn drive<B: Backend>(
    timesteps: Timesteps,
    interpolant: Interpolant,
    field: &dyn VelocityField<B>,
    mut x: Tensor<B>,
    ar_step: ArStep,
    observer: &mut dyn Observer<B>,
    mut advance: impl FnMut(Step, &Tensor<B>, &Tensor<B>) -> Result<Tensor<B>>,
) -> Result<Tensor<B>> {
    x.expect_float("sample")?;
    if !(ar_step.given..ar_step.count).contains(&ar_step.index) {
        let (given, count) = (ar_step.given, ar_step.count);
        let expected = format!("less than the {count} of the generation, of which {given} are given");
        return Err(Error::argument("ar_step", expected, ar_step.index));
    }
    let steps = timesteps.steps();
    for index in 0..steps {
        let (t, next) = (timesteps.time(index), timesteps.time(index + 1));
        let step = Step { index, t, next, dt: next - t, is_last: index + 1 == steps };
        let v = evaluate(field, &x, t)?;
        let moved = advance(step, &x, &v)?;
        let progress = Progress { ar_step, step: index + 1, steps, t, interpolant, x: &x, v: &v };
        if let ControlFlow::Break(()) = observer.step(&progress) {
            return Err(Error::Cancelled);
        }
        x = moved;
    }
    if x.to_host()?.data().is_finite() { Ok(x) } else { Err(Error::NonFinite { stage: "sampler" }) }
}

/// The velocity in the type of `x`. A shape that merely broadcasts would be a mistake, and is refused.
fn evaluate<B: Backend>(field: &dyn VelocityField<B>, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
    let v = field.velocity(x, t)?;
    v.expect_shape("sample", "a velocity of shape", x.shape())?;
    v.cast(x.dtype())
}
