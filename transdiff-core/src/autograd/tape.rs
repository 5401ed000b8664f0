//! The tape: a flat list of nodes, walked once in reverse.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Var;
use crate::{Backend, Error, Result, Tensor};

/// Names a tensor that gradients are wanted for: a parameter or an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GradKey(u64);

impl GradKey {
    /// A key that no other has.
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The backward pass of one recorded operation: what it saved, and how to go from the gradient of its output to
/// those of its inputs.
pub trait Vjp<B: Backend>: Send {
    /// Gradients of the inputs from that of the output. Called once; what was saved is freed on return.
    ///
    /// `wanted[i]` says whether input i takes part; the result's i-th entry may be `None` where it does not.
    /// An operation that hides parameters (a checkpoint) adds their gradients to `grads`.
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        wanted: &[bool],
        grads: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>>;
}

enum Node<B: Backend> {
    Leaf(GradKey),
    Op { inputs: Vec<Option<usize>>, vjp: Box<dyn Vjp<B>> },
}

/// A recording of operations. Clones share the recording.
pub struct Tape<B: Backend>(Arc<Mutex<Graph<B>>>);

struct Graph<B: Backend> {
    nodes: Vec<Node<B>>,
    /// A backward pass has taken the nodes: their numbers mean nothing any more.
    consumed: bool,
}

impl<B: Backend> Clone for Tape<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> Default for Tape<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> std::fmt::Debug for Tape<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.recording().nodes.len())
    }
}

impl<B: Backend> Tape<B> {
    /// An empty tape.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Graph { nodes: Vec::new(), consumed: false })))
    }

    fn recording(&self) -> MutexGuard<'_, Graph<B>> {
        // A panic while the lock is held leaves a list that is whole: pushes and takes are single steps.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn push(&self, node: Node<B>) -> usize {
        let nodes = &mut self.recording().nodes;
        nodes.push(node);
        nodes.len() - 1
    }

    /// A variable whose gradient will be found under `key`.
    pub fn leaf(&self, key: GradKey, value: Tensor<B>) -> Var<B> {
        let id = self.push(Node::Leaf(key));
        Var::at(value, self.clone(), id)
    }

    /// A variable for `value` with a key of its own.
    pub fn input(&self, value: Tensor<B>) -> (Var<B>, GradKey) {
        let key = GradKey::unique();
        (self.leaf(key, value), key)
    }

    pub(super) fn record(
        &self,
        value: Tensor<B>,
        inputs: &[&Var<B>],
        vjp: Box<dyn Vjp<B>>,
    ) -> Result<Var<B>> {
        let inputs = inputs.iter().map(|v| v.node_on(self)).collect::<Result<_>>()?;
        let id = self.push(Node::Op { inputs, vjp });
        Ok(Var::at(value, self.clone(), id))
    }

    /// Whether a backward pass has consumed the recording.
    pub(super) fn is_consumed(&self) -> bool {
        self.recording().consumed
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Gradients of the scalar `loss` for every leaf that it depends on. Consumes the recording: a second call, and
    /// operations on its variables, are errors.
    pub fn backward(&self, loss: &Var<B>) -> Result<Gradients<B>> {
        if loss.value().numel() != 1 {
            return Err(Error::shape("backward", "a loss of one element", loss.shape()));
        }
        let value = loss.value();
        let one = Tensor::full(value.backend(), value.shape(), 1.0, value.dtype())?;
        let mut grads = Gradients::new();
        self.backward_from(loss, one, &mut grads)?;
        Ok(grads)
    }

    /// Adds to `grads` the gradients of every leaf, given the gradient `dy` of `output`. Consumes the recording.
    pub(super) fn backward_from(
        &self,
        output: &Var<B>,
        dy: Tensor<B>,
        grads: &mut Gradients<B>,
    ) -> Result<()> {
        let Some(root) = output.node_on(self)? else { return Ok(()) };
        let nodes = {
            let mut recording = self.recording();
            recording.consumed = true;
            std::mem::take(&mut recording.nodes)
        };
        let mut pending: Vec<Option<Tensor<B>>> = vec![None; nodes.len()];
        pending[root] = Some(dy);
        for (id, node) in nodes.into_iter().enumerate().rev() {
            let Some(dy) = pending[id].take() else { continue };
            match node {
                Node::Leaf(key) => grads.add(key, dy)?,
                Node::Op { inputs, vjp } => {
                    let wanted: Vec<bool> = inputs.iter().map(Option::is_some).collect();
                    let found = vjp.backward(dy, &wanted, grads)?;
                    debug_assert_eq!(found.len(), inputs.len(), "a vjp answers for each of its inputs");
                    for (input, grad) in inputs.into_iter().zip(found) {
                        if let (Some(input), Some(grad)) = (input, grad) {
                            accumulate(&mut pending[input], grad)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn accumulate<B: Backend>(slot: &mut Option<Tensor<B>>, grad: Tensor<B>) -> Result<()> {
    *slot = Some(match slot.take() {
        Some(sum) => sum.add(&grad)?,
        None => grad,
    });
    Ok(())
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
    /// No gradients.
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Adds `grad` to what is there for `key`.
    pub fn add(&mut self, key: GradKey, grad: Tensor<B>) -> Result<()> {
        let mut slot = self.0.remove(&key);
        accumulate(&mut slot, grad)?;
        self.0.extend(slot.map(|sum| (key, sum)));
        Ok(())
    }

    /// Adds every gradient of `other`.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        other.0.into_iter().try_for_each(|(key, grad)| self.add(key, grad))
    }

    /// The gradient for `key`; `None` where the loss does not depend on it.
    pub fn get(&self, key: GradKey) -> Option<&Tensor<B>> {
        self.0.get(&key)
    }

    /// Takes the gradient for `key` out.
    pub fn remove(&mut self, key: GradKey) -> Option<Tensor<B>> {
        self.0.remove(&key)
    }
}
