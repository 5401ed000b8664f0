//! The tape: a flat list of nodes, walked once in reverse.

use std::sync::{Arc, Mutex, MutexGuard};

use super::gradients::{GradKey, Gradients, accumulate};
use crate::{Backend, Result, Tensor};

/// Backward pass of a recorded operation: the tensors that it saved, and the vector-Jacobian product.
pub trait Vjp<B: Backend>: Send {
    /// Gradients of the inputs from the gradient `dy` of the output; entry i of the result may be `None` where that of input i
    /// is not wanted. Called once; saved tensors are freed on return.
    ///
    /// An operation with hidden parameters (gradient checkpointing) adds their gradients to `grads`.
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        grads: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>>;
}

/// Inputs of a recorded operation, during its backward pass.
#[derive(Debug)]
pub struct Inputs<'a, B: Backend> {
    /// Their nodes; `None` for constants.
    nodes: &'a [Option<usize>],
    /// Gradients of all nodes, as far as they have been computed.
    pending: &'a mut [Option<Tensor<B>>],
}

impl<B: Backend> Inputs<'_, B> {
    /// Number of inputs.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether the gradient of input `i` is wanted; false if there is no such input.
    pub fn is_wanted(&self, i: usize) -> bool {
        self.nodes.get(i).is_some_and(Option::is_some)
    }

    /// Takes the gradient of input `i` from the operations that were recorded after this one. The operation adds its own
    /// contribution, which saves a pass over memory, and returns the sum.
    pub fn take_pending(&mut self, i: usize) -> Option<Tensor<B>> {
        self.pending[self.nodes[i]?].take()
    }
}

enum Node<B: Backend> {
    Leaf(GradKey),
    Op { inputs: Vec<Option<usize>>, vjp: Box<dyn Vjp<B>> },
}

/// A record of operations. Clones share it.
pub struct Tape<B: Backend>(Arc<Mutex<Nodes<B>>>);

struct Nodes<B: Backend> {
    list: Vec<Node<B>>,
    /// A backward pass has taken the nodes, so that their numbers are invalid.
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
        write!(f, "Tape({} nodes)", self.nodes().list.len())
    }
}

impl<B: Backend> Tape<B> {
    /// An empty tape.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Nodes { list: Vec::new(), consumed: false })))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes<B>> {
        // The list is whole even if a thread panicked with the lock: pushes and takes are single steps.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn push(&self, node: Node<B>) -> usize {
        let list = &mut self.nodes().list;
        list.push(node);
        list.len() - 1
    }

    /// Records a leaf; returns the number of its node.
    pub(super) fn push_leaf(&self, key: GradKey) -> usize {
        self.push(Node::Leaf(key))
    }

    /// Records an operation on the nodes `inputs`, `None` for constants; returns the number of its node.
    pub(super) fn push_op(&self, inputs: Vec<Option<usize>>, vjp: Box<dyn Vjp<B>>) -> usize {
        self.push(Node::Op { inputs, vjp })
    }

    /// Returns whether a backward pass has consumed the tape.
    pub(super) fn is_consumed(&self) -> bool {
        self.nodes().consumed
    }

    /// Returns whether both are clones of one tape.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds to `grads` the gradients of all leaves, from the gradient `dy` of node `root`. Consumes the tape.
    pub(super) fn run_backward(&self, root: usize, dy: Tensor<B>, grads: &mut Gradients<B>) -> Result<()> {
        let nodes = {
            let mut nodes = self.nodes();
            nodes.consumed = true;
            std::mem::take(&mut nodes.list)
        };
        let mut pending: Vec<Option<Tensor<B>>> = vec![None; nodes.len()];
        pending[root] = Some(dy);
        for (id, node) in nodes.into_iter().enumerate().rev() {
            let Some(dy) = pending[id].take() else { continue };
            match node {
                Node::Leaf(key) => grads.add(key, dy)?,
                Node::Op { inputs, vjp } => {
                    let found =
                        vjp.backward(dy, &mut Inputs { nodes: &inputs, pending: &mut pending }, grads)?;
                    debug_assert_eq!(found.len(), inputs.len(), "a vjp returns an entry per input");
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
