//! Sources of a sampler's noise.

use std::collections::VecDeque;

use super::ArStep;
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, DType, Error, Result, Tensor};

/// Source of draws from N(0, 1) for a batch; axis 0 of every shape is the batch.
pub trait NoiseSource<B: Backend> {
    /// Initial noise, the state at t = 1, of `shape`. All AR steps of one generation start from the same.
    ///
    /// # Errors
    /// Those of the source.
    fn initial(&mut self, shape: &[usize]) -> Result<Tensor<B>>;

    /// Noise injected in sampling step `step` of `ar_step`, of `shape` and any float type. Called in order, once per step
    /// that needs noise.
    ///
    /// # Errors
    /// Those of the source.
    fn injected(&mut self, ar_step: ArStep, step: usize, shape: &[usize]) -> Result<Tensor<B>>;
}

/// Noise that is a function of each image's own seed.
///
/// Image i draws from the Philox streams (seedᵢ, [`Purpose::InitialNoise`], 0, 0) and (seedᵢ,
/// [`Purpose::InjectedNoise`], AR step, step), in row-major order. Nothing else enters: an image gets the same noise alone,
/// at any place of any batch, and on any backend. Two images with one seed get the same noise.
#[derive(Clone, Debug)]
pub struct KeyedNoise<B: Backend> {
    backend: B,
    dtype: DType,
    seeds: Vec<u64>,
    initial: Option<Tensor<B>>,
}

impl<B: Backend> KeyedNoise<B> {
    /// Noise of type `dtype` on `backend` for images with these seeds. Draws are rounded to f32 first.
    pub fn new(backend: &B, dtype: DType, seeds: &[u64]) -> Self {
        Self { backend: backend.clone(), dtype, seeds: seeds.to_vec(), initial: None }
    }

    /// The same noise with the given initial noise, in the shape of the sampler's state.
    #[must_use]
    pub fn with_initial(self, initial: Tensor<B>) -> Self {
        Self { initial: Some(initial), ..self }
    }

    fn draw(&self, purpose: Purpose, index: u32, step: u32, shape: &[usize]) -> Result<Tensor<B>> {
        const OP: &str = "KeyedNoise";
        if shape.first() != Some(&self.seeds.len()) {
            return Err(Error::shape(OP, format!("a batch of {}", self.seeds.len()), shape));
        }
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(each), Some(count)) = (product(&shape[1..]), product(shape)) else {
            return Err(Error::shape(OP, "a number of elements that fits a usize", shape));
        };
        let bytes = count.saturating_mul(DType::F32.size());
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Error::out_of_memory(OP, bytes))?;
        for &seed in &self.seeds {
            values.extend(StreamKey::new(seed, purpose, index, step).normals(each));
        }
        Tensor::from_f32(&self.backend, shape, values, self.dtype)
    }
}

impl<B: Backend> NoiseSource<B> for KeyedNoise<B> {
    fn initial(&mut self, shape: &[usize]) -> Result<Tensor<B>> {
        let Some(given) = &self.initial else { return self.draw(Purpose::InitialNoise, 0, 0, shape) };
        given.expect_shape("KeyedNoise", "initial noise", shape)?;
        Ok(given.clone())
    }

    fn injected(&mut self, ar_step: ArStep, step: usize, shape: &[usize]) -> Result<Tensor<B>> {
        let word = |name, value: usize| {
            u32::try_from(value).map_err(|_| Error::argument(name, "less than 2^32", value))
        };
        let (index, step) = (word("ar_step", ar_step.index)?, word("step", step)?);
        self.draw(Purpose::InjectedNoise, index, step, shape)
    }
}

/// Recorded noise: a caller's own, or the draws of another implementation.
#[derive(Clone, Debug)]
pub struct RecordedNoise<B: Backend> {
    initial: Tensor<B>,
    injected: VecDeque<Tensor<B>>,
}

impl<B: Backend> RecordedNoise<B> {
    /// The initial noise, and the injected draws in the order of use, one AR step after another.
    pub fn new(initial: Tensor<B>, injected: impl IntoIterator<Item = Tensor<B>>) -> Self {
        Self { initial, injected: injected.into_iter().collect() }
    }

    /// Number of draws left.
    pub fn remaining(&self) -> usize {
        self.injected.len()
    }
}

impl<B: Backend> NoiseSource<B> for RecordedNoise<B> {
    fn initial(&mut self, shape: &[usize]) -> Result<Tensor<B>> {
        self.initial.expect_shape("RecordedNoise", "initial noise", shape)?;
        Ok(self.initial.clone())
    }

    /// # Errors
    /// [`Error::Argument`] when the draws are used up, [`Error::Shape`] when the next one is not of `shape`.
    fn injected(&mut self, _: ArStep, step: usize, shape: &[usize]) -> Result<Tensor<B>> {
        let next = self.injected.pop_front();
        let next = next.ok_or_else(|| Error::argument("noise", format!("a draw for step {step}"), "none"))?;
        next.expect_shape("RecordedNoise", "injected noise", shape)?;
        Ok(next)
    }
}
