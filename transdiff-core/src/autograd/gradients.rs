//! Gradients by the key of their parameter or input.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Backend, Result, Tensor};

/// Key of a tensor that gradients are computed for: a parameter or an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GradKey(u64);

impl GradKey {
    /// A new key, unequal to all others.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Gradients by key.
#[derive(Debug)]
pub struct Gradients<B: Backend>(HashMap<GradKey, Tensor<B>>);

impl<B: Backend> Default for Gradients<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Gradients<B> {
    /// An empty set of gradients.
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Adds `grad` to the gradient for `key`.
    pub fn add(&mut self, key: GradKey, grad: Tensor<B>) -> Result<()> {
        let mut sum = self.0.remove(&key);
        accumulate(&mut sum, grad)?;
        self.0.extend(sum.map(|sum| (key, sum)));
        Ok(())
    }

    /// Adds all gradients of `other`.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        other.0.into_iter().try_for_each(|(key, grad)| self.add(key, grad))
    }

    /// The gradient for `key`; `None` where the loss does not depend on it.
    pub fn get(&self, key: GradKey) -> Option<&Tensor<B>> {
        self.0.get(&key)
    }

    /// Removes and returns the gradient for `key`.
    pub fn remove(&mut self, key: GradKey) -> Option<Tensor<B>> {
        self.0.remove(&key)
    }
}

/// sum ← sum + grad.
pub(super) fn accumulate<B: Backend>(sum: &mut Option<Tensor<B>>, grad: Tensor<B>) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => sum.add(&grad)?,
        None => grad,
    });
    Ok(())
}
