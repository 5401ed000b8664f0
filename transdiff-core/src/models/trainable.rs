//! Trainable models: the loss of a batch, and the parameter groups.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Model;
use crate::autograd::{Context, Var};
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, Result, Tensor};

/// Shape of a training sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleShape {
    /// Shape [C, h, w] of a latent.
    pub latent: [usize; 3],
    /// Number of latents per sample, all different and of one class.
    pub latents_per_sample: usize,
    /// Number of classes.
    pub classes: usize,
}

/// Samples of one forward pass, as the data set has them.
#[derive(Clone, Debug)]
pub struct Samples<B: Backend> {
    /// Class of each sample, `[b]`.
    pub labels: Vec<usize>,
    /// First latents of all samples [b, C, h, w], then their second ones, and so on.
    pub latents: Vec<Tensor<B>>,
}

/// Key of everything random in one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawKey {
    /// Seed of the run.
    pub seed: u64,
    /// Training step, from 0.
    pub step: u32,
    /// Forward pass within the step, from 0.
    pub pass: usize,
}

impl DrawKey {
    /// Key of stream `index` of the `count` streams that a pass draws from for `purpose`.
    pub fn stream(&self, purpose: Purpose, index: usize, count: usize) -> StreamKey {
        StreamKey::new(self.seed, purpose, (self.pass * count + index) as u32, self.step)
    }
}

/// Treatment of a parameter by the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroup {
    /// Applies the run's weight decay.
    pub weight_decay: bool,
    /// Factor of the learning rate.
    pub lr_factor: f64,
    /// Excludes the parameter from training.
    pub frozen: bool,
}

impl ParamGroup {
    /// Trained at the run's learning rate, with weight decay or without.
    pub const fn trained(weight_decay: bool) -> Self {
        Self { weight_decay, lr_factor: 1.0, frozen: false }
    }
}

/// A model that [`Trainer`](crate::train::Trainer) can train.
pub trait Trainable<B: Backend>: Model<B> {
    /// Settings of the loss.
    type Objective: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned;

    /// Input of the loss: samples, and everything that was drawn for them.
    type Batch: Clone + Debug;

    /// Checks the settings of the loss.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first that is out of range.
    fn check_objective(objective: &Self::Objective) -> Result<()>;

    /// Shape of the samples.
    fn sample_shape(&self) -> SampleShape;

    /// Batch of `samples`: draws timesteps, noise and dropout keys for them. Depends on `key` and the settings alone.
    ///
    /// # Errors
    /// Those of the backend.
    fn draw(&self, samples: Samples<B>, objective: &Self::Objective, key: DrawKey) -> Result<Self::Batch>;

    /// Loss of a batch, of shape [], in the [accumulator's](crate::DType::accumulator) type, whatever type `ctx` computes
    /// in.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) and [`Error::Shape`](crate::Error::Shape) for a batch that does not
    /// go with the model.
    fn loss(&self, ctx: &Context<B>, batch: &Self::Batch, objective: &Self::Objective) -> Result<Var<B>>;

    /// Group of the parameter `name`, which has `rank` axes.
    fn param_group(&self, name: &str, rank: usize) -> ParamGroup;
}
