//! State of an integration between two steps.

use std::collections::VecDeque;

use super::{ArStep, LinearCombination, NoiseSource, VelocityField};
use crate::{Backend, Error, Result, Tensor};

/// A velocity, with the state and the time at which it was evaluated.
#[derive(Clone, Debug)]
pub struct Evaluation<B: Backend> {
    /// Time in [0, 1].
    pub t: f64,
    /// State.
    pub x: Tensor<B>,
    /// Velocity at (x, t), in the shape and type of `x`.
    pub v: Tensor<B>,
}

/// State of an integration: x, and the earlier evaluations that the solver looks back at.
#[derive(Clone, Debug)]
pub struct SolverState<B: Backend> {
    /// Current state, batch on axis 0.
    pub x: Tensor<B>,
    ar_step: ArStep,
    /// Latest evaluations, newest last.
    history: VecDeque<Evaluation<B>>,
}

impl<B: Backend> SolverState<B> {
    /// The state at t = 1: `x` of any shape with the batch on axis 0 and a float type (f32 where a model computes in
    /// bf16).
    ///
    /// # Errors
    /// [`Error::DType`] if `x` has no float type; [`Error::Argument`] if `ar_step` is none of those that are run.
    pub fn new(x: Tensor<B>, ar_step: ArStep) -> Result<Self> {
        x.expect_float("sample")?;
        let ArStep { index, count, given } = ar_step;
        if !(given..count).contains(&index) {
            let expected = format!("an index in {given}..{count}, as {given} of {count} AR steps are given");
            return Err(Error::argument("ar_step", expected, index));
        }
        Ok(Self { x, ar_step, history: VecDeque::new() })
    }

    /// The AR step that is integrated.
    pub fn ar_step(&self) -> ArStep {
        self.ar_step
    }

    /// Evaluates `field` at x and `t`, and returns the velocity. The history then holds the `kept` newest evaluations,
    /// this one included.
    ///
    /// # Errors
    /// [`Error::Shape`] if the velocity does not have the shape of x, and those of the field.
    pub fn evaluate(&mut self, field: &dyn VelocityField<B>, t: f64, kept: usize) -> Result<Tensor<B>> {
        // Before the evaluation, so that the state holds nothing during it that will not be read again.
        while self.history.len() >= kept.max(1) {
            self.history.pop_front();
        }
        let v = evaluate(field, &self.x, t)?;
        self.history.push_back(Evaluation { t, x: self.x.clone(), v: v.clone() });
        Ok(v)
    }

    /// `moved` with `deviation` · N(0, 1) added, the noise of step `i`. None is drawn for a deviation of 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if the noise does not have the shape of x, and those of the source.
    pub(super) fn with_noise(
        &self,
        moved: Tensor<B>,
        noise: &mut dyn NoiseSource<B>,
        i: usize,
        deviation: f64,
    ) -> Result<Tensor<B>> {
        if deviation == 0.0 {
            return Ok(moved);
        }
        let draw = noise.injected(self.ar_step, i, moved.shape())?;
        draw.expect_shape("sample", "noise", moved.shape())?;
        moved.add(&draw.cast(moved.dtype())?.affine(deviation, 0.0)?)
    }

    /// The latest evaluations, newest last.
    pub fn history(&self) -> &VecDeque<Evaluation<B>> {
        &self.history
    }

    /// The evaluation at the beginning of the latest step.
    pub fn latest(&self) -> Option<&Evaluation<B>> {
        self.history.back()
    }
}

/// Velocity of `field` in the type of `x`. A shape that merely broadcasts is refused.
///
/// # Errors
/// [`Error::Shape`] if the velocity does not have the shape of `x`, and those of the field.
pub(super) fn evaluate<B: Backend>(field: &dyn VelocityField<B>, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
    let v = field.velocity(x, t)?;
    v.expect_shape("sample", "a velocity of shape", x.shape())?;
    v.cast(x.dtype())
}

/// x + v · dt.
pub(super) fn advance<B: Backend>(x: &Tensor<B>, v: &Tensor<B>, dt: f64) -> Result<Tensor<B>> {
    LinearCombination { v: dt, x: 1.0 }.apply(v, x)
}
