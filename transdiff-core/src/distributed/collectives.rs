//! Sums of tensors over all ranks.

use std::fmt;
use std::sync::Arc;

use super::Communicator;
use crate::{Backend, Result, Tensor};

/// Operations of all ranks on tensors of a device. They are enqueued, and executed in their order while the device goes on
/// with other work.
///
/// As with a [`Communicator`], every rank calls the same methods in the same order, with equal shapes, types and counts. Counts
/// are numbers of elements per rank; their sum is the length of the whole tensor.
pub trait Collectives<B: Backend>: fmt::Debug + Send + Sync {
    /// The ranks.
    fn communicator(&self) -> &Arc<dyn Communicator>;

    /// Sum over all ranks of `values` \[n\].
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) if a rank does not answer, here or when the result is waited for.
    fn all_reduce(&self, values: Tensor<B>) -> Result<Pending<B>>;

    /// Part of the sum over all ranks of `values` \[n\]: `counts[rank]` elements, after those of the ranks before.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn reduce_scatter(&self, values: Tensor<B>, counts: &[usize]) -> Result<Pending<B>>;

    /// The parts \[`counts[i]`\] of all ranks i, one after another.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn all_gather(&self, part: Tensor<B>, counts: &[usize]) -> Result<Pending<B>>;
}

/// Result of an operation that is being executed.
pub struct Pending<B: Backend>(Box<dyn FnOnce() -> Result<Tensor<B>> + Send>);

impl<B: Backend> Pending<B> {
    /// A result that `wait` waits for and returns.
    pub fn new(wait: impl FnOnce() -> Result<Tensor<B>> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) if a rank does not answer, or the device fails.
    pub fn wait(self) -> Result<Tensor<B>> {
        (self.0)()
    }
}

impl<B: Backend> fmt::Debug for Pending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

/// Numbers of elements of `len` per rank, equal or greater by one in the first ranks.
pub fn even_counts(len: usize, ranks: usize) -> Vec<usize> {
    (0..ranks).map(|rank| len / ranks + usize::from(rank < len % ranks)).collect()
}
