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

/// Samples of one forward pass on the device, without their draws.
#[derive(Clone, Debug)]
pub struct Samples<B: Backend> {
    /// Class of each sample, `[b]`.
    pub labels: Vec<usize>,
    /// First latents of all samples [b, C, h, w], then their second ones, and so on.
    pub latents: Vec<Tensor<B>>,
}

/// Key of everything random in a training sample. It does not depend on the batch: another division of the same samples
/// into batches draws the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the sample in the run, from 0.
    pub number: u32,
}

impl SampleKey {
    /// Key of the stream `index` of those that the sample draws from for `purpose`.
    pub fn stream(&self, purpose: Purpose, index: usize) -> StreamKey {
        StreamKey::new(self.seed, purpose, index as u32, self.number)
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
    type Objective: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Everything random in the loss of one sample but its dropout, in host memory.
    type Draws: Clone + Debug + Send + 'static;

    /// Input of the loss: samples, and everything that was drawn for them.
    type Batch: Clone + Debug;

    /// Checks the settings of the loss.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first that is out of range.
    fn check_objective(objective: &Self::Objective) -> Result<()>;

    /// Shape of the samples.
    fn sample_shape(&self) -> SampleShape;

    /// Draws for the sample of `key`, such as timesteps and noise. A function of the arguments.
    fn draw(shape: &SampleShape, objective: &Self::Objective, key: SampleKey) -> Self::Draws;

    /// Batch of `samples` and their draws.
    ///
    /// # Errors
    /// Those of the backend.
    fn batch(&self, samples: Samples<B>, draws: Vec<Self::Draws>) -> Result<Self::Batch>;

    /// Number of samples in a batch.
    fn batch_len(batch: &Self::Batch) -> usize;

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
