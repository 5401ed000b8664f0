//! Gradients by the key of their parameter or input.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
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

/// Number of contributions to each gradient in a backward pass: a parameter that a model uses twice has two.
pub type Contributions = HashMap<GradKey, u32>;

/// Gradients by key.
#[derive(Debug)]
pub struct Gradients<B: Backend> {
    sums: HashMap<GradKey, Sum<B>>,
    added: u64,
    receiver: Option<Receiver<B>>,
}

/// A gradient, as far as it has been computed.
#[derive(Debug)]
struct Sum<B: Backend> {
    value: Tensor<B>,
    contributions: u32,
    /// Number of contributions to all gradients until the last to this one.
    completed: u64,
}

type Receive<B> = dyn FnMut(GradKey, Tensor<B>) -> Result<()> + Send;

/// Receiver of gradients that are complete while others are being computed.
struct Receiver<B: Backend> {
    expected: Arc<Contributions>,
    receive: Box<Receive<B>>,
}

impl<B: Backend> fmt::Debug for Receiver<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} gradients)", self.expected.len())
    }
}

impl<B: Backend> Default for Gradients<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Gradients<B> {
    /// An empty set of gradients.
    pub fn new() -> Self {
        Self { sums: HashMap::new(), added: 0, receiver: None }
    }

    /// An empty set, which hands a gradient to `receive` once it has the contributions that are `expected`. It keeps the
    /// gradients that have fewer, or are not expected.
    pub fn handing_over(
        expected: Arc<Contributions>,
        receive: impl FnMut(GradKey, Tensor<B>) -> Result<()> + Send + 'static,
    ) -> Self {
        Self { receiver: Some(Receiver { expected, receive: Box::new(receive) }), ..Self::new() }
    }

    /// Adds `grad` to the gradient for `key`. A sum is of the [accumulator](crate::DType::accumulator)'s type; the first
    /// gradient keeps its own.
    ///
    /// # Errors
    /// Those of the addition and of the receiver.
    pub fn add(&mut self, key: GradKey, grad: Tensor<B>) -> Result<()> {
        let (value, contributions) = match self.sums.remove(&key) {
            Some(Sum { value, contributions, .. }) => (Some(value), contributions + 1),
            None => (None, 1),
        };
        let value = match value {
            Some(value) => add_wide(value, grad)?,
            None => grad,
        };
        self.added += 1;
        if let Some(receiver) = &mut self.receiver
            && receiver.expected.get(&key) == Some(&contributions)
        {
            return (receiver.receive)(key, value);
        }
        self.sums.insert(key, Sum { value, contributions, completed: self.added });
        Ok(())
    }

    /// Adds all gradients of `other`.
    ///
    /// # Errors
    /// Those of [`add`](Self::add).
    pub fn merge(&mut self, other: Self) -> Result<()> {
        other.sums.into_iter().try_for_each(|(key, sum)| self.add(key, sum.value))
    }

    /// The gradient for `key`; `None` where the loss does not depend on it.
    pub fn get(&self, key: GradKey) -> Option<&Tensor<B>> {
        self.sums.get(&key).map(|sum| &sum.value)
    }

    /// Removes and returns the gradient for `key`.
    pub fn remove(&mut self, key: GradKey) -> Option<Tensor<B>> {
        self.sums.remove(&key).map(|sum| sum.value)
    }

    /// Number of contributions to the gradients that are kept.
    pub fn contributions(&self) -> Contributions {
        self.sums.iter().map(|(&key, sum)| (key, sum.contributions)).collect()
    }

    /// Keys of the gradients that are kept, in the order of their last contributions.
    pub fn completion_order(&self) -> Vec<GradKey> {
        let mut keys: Vec<(u64, GradKey)> =
            self.sums.iter().map(|(&key, sum)| (sum.completed, key)).collect();
        keys.sort_by_key(|&(completed, _)| completed);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Returns the gradients that are kept.
    pub fn into_values(self) -> impl Iterator<Item = (GradKey, Tensor<B>)> {
        self.sums.into_iter().map(|(key, sum)| (key, sum.value))
    }
}

impl<B: Backend> FromIterator<(GradKey, Tensor<B>)> for Gradients<B> {
    fn from_iter<I: IntoIterator<Item = (GradKey, Tensor<B>)>>(gradients: I) -> Self {
        let sum = |(key, value)| (key, Sum { value, contributions: 1, completed: 0 });
        Self { sums: gradients.into_iter().map(sum).collect(), added: 0, receiver: None }
    }
}

/// a + b in the accumulator's type: the terms may have been rounded to the type of a pass, their sum is not.
pub(crate) fn add_wide<B: Backend>(a: Tensor<B>, b: Tensor<B>) -> Result<Tensor<B>> {
    let wide = a.dtype().accumulator();
    a.cast(wide)?.add(&b.cast(wide)?)
}

/// sum ← sum + grad.
pub(super) fn accumulate<B: Backend>(sum: &mut Option<Tensor<B>>, grad: Tensor<B>) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => sum.add(&grad)?,
        None => grad,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::reference::Reference;
    use crate::{DType, Error};

    #[test]
    fn complete_gradients_are_handed_over() {
        let tensor = |value: f64| Tensor::full(&Reference, &[1], value, DType::F64).unwrap();
        let [once, twice, unknown] = [(); 3].map(|()| GradKey::unique());
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        let expected = Arc::new(Contributions::from([(once, 1), (twice, 2)]));
        let mut grads = Gradients::handing_over(expected, move |key, value: Tensor<Reference>| {
            sink.lock().unwrap().push((key, value.item()?));
            if key == once { Ok(()) } else { Err(Error::NonFinite { stage: "test" }) }
        });
        grads.add(twice, tensor(1.0)).unwrap();
        grads.add(once, tensor(2.0)).unwrap();
        grads.add(unknown, tensor(3.0)).unwrap();
        assert_eq!(grads.contributions(), Contributions::from([(twice, 1), (unknown, 1)]));
        assert_eq!(grads.completion_order(), [twice, unknown]);
        assert!(grads.add(twice, tensor(4.0)).is_err(), "the receiver fails");
        assert_eq!(*received.lock().unwrap(), [(once, 2.0), (twice, 5.0)]);
    }
}
