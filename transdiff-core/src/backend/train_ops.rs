//! Updates of an optimiser step.

use super::storage::{Storage, View, ViewMut};
use crate::Result;

/// Hyperparameters of an AdamW step (Loshchilov and Hutter 2019: decoupled weight decay).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor of the gradients, which clips their norm.
    pub grad_scale: f64,
}

/// Arguments of [`TrainOps::adamw_step`] for one parameter. All tensors have the same shape and the same order in memory,
/// without gaps, and the type of the parameter, except where another is documented.
#[derive(Debug)]
pub struct AdamWArgs<'a, S: Storage> {
    /// The parameter.
    pub param: ViewMut<'a, S>,
    /// Its gradient, also in a narrower type whose [accumulator](crate::DType::accumulator)'s type is the parameter's; `None` is a
    /// gradient of zero (moments and weight decay still apply).
    pub grad: Option<View<'a, S>>,
    /// First moment.
    pub m: ViewMut<'a, S>,
    /// Second moment.
    pub v: ViewMut<'a, S>,
    /// Copy of the new parameter in a narrower type, that of training passes, whose
    /// [accumulator](crate::DType::accumulator)'s type is the parameter's.
    pub cast: Option<ViewMut<'a, S>>,
    /// Weight decay of this parameter.
    pub weight_decay: f64,
}

/// Order in which terms are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summation {
    /// A binary tree: the sum of the first half, rounded up, and that of the second half. Consecutive terms that a power of two
    /// of ranks share equally are a subtree for each rank, so that the sum does not depend on the number of ranks. Takes
    /// memory for the logarithm of the number of terms.
    Pairwise,
    /// Each term is added to the sum of those before it. Takes memory for one sum.
    Sequential,
}

/// Operations of an optimiser step, on many tensors at once.
pub trait TrainOps: Storage {
    /// For each parameter, with g = grad_scale · grad:
    /// p ← p·(1 − lr·wd), m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g²,
    /// p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps).
    fn adamw_step(&self, hyper: &AdamW, params: &mut [AdamWArgs<'_, Self>]) -> Result<()>;

    /// average ← decay · average + (1 − decay) · param, for each pair; same shape and order in memory, no gaps.
    fn ema_step(&self, decay: f64, pairs: &mut [(ViewMut<'_, Self>, View<'_, Self>)]) -> Result<()>;

    /// Σ x² over the elements of each tensor, summed in f64, in an order that depends on its size alone. Tensors have no
    /// gaps.
    fn squared_norms(&self, tensors: &[View<'_, Self>]) -> Result<Vec<f64>>;

    /// Order in which the gradients of a step's passes are added. A device whose results depend on the division of a batch
    /// gains nothing from pairwise sums, and they take memory.
    fn summation(&self) -> Summation {
        Summation::Pairwise
    }
}
