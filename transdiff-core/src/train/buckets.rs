//! Buckets: parameters whose gradients, or weights, are sent together.

use crate::autograd::GradKey;
use crate::{Backend, Result, Tensor};

/// Parameters whose gradients are sent together.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) slots: Vec<Slot>,
    /// Elements that each rank owns, one after another; only with a divided optimiser.
    pub(super) owned: Vec<usize>,
}

/// A parameter in a bucket.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) key: GradKey,
    /// Number of the parameter in the model.
    pub(super) index: usize,
    /// Rank that updates it.
    pub(super) owner: usize,
    pub(super) shape: Vec<usize>,
    /// Axes in the order of the parameter's memory, outermost first: gradients are sent in this order, in which the optimiser
    /// reads them.
    pub(super) axes: Vec<usize>,
}

impl Slot {
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements \[n\] of a tensor like the parameter.
    pub(super) fn flat<B: Backend>(&self, tensor: &Tensor<B>) -> Result<Tensor<B>> {
        tensor.permute(&self.axes)?.reshape(&[self.len()])
    }

    /// The tensor like the parameter with these elements.
    pub(super) fn shaped<B: Backend>(&self, flat: &Tensor<B>) -> Result<Tensor<B>> {
        let shape: Vec<usize> = self.axes.iter().map(|&axis| self.shape[axis]).collect();
        let mut places = vec![0; self.axes.len()];
        self.axes.iter().enumerate().for_each(|(place, &axis)| places[axis] = place);
        flat.reshape(&shape)?.permute(&places)
    }
}

impl Bucket {
    /// Slots of the parameters that `rank` updates.
    pub(super) fn owned_by(&self, rank: usize) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.owner == rank)
    }
}

/// Concatenation of the elements \[n\] of tensors; `None` if there are none.
pub(super) fn concatenated<B: Backend>(mut parts: Vec<Tensor<B>>) -> Result<Option<Tensor<B>>> {
    match parts.len() {
        0 | 1 => Ok(parts.pop()),
        _ => Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0).map(Some),
    }
}

/// The tensors of `slots`, one after another in `flat`.
pub(super) fn divided<'a, B: Backend>(
    flat: &Tensor<B>,
    slots: impl Iterator<Item = &'a Slot>,
) -> Result<Vec<(&'a Slot, Tensor<B>)>> {
    let mut start = 0;
    let mut out = Vec::new();
    for slot in slots {
        out.push((slot, slot.shaped(&flat.narrow(0, start, slot.len())?)?));
        start += slot.len();
    }
    Ok(out)
}

/// Owners of parameters of these sizes: the largest first, each to the rank that has the fewest elements.
pub(super) fn owners(sizes: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sizes[index]));
    let (mut loads, mut owners) = (vec![0; ranks], vec![0; sizes.len()]);
    for index in order {
        let owner = (0..ranks).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        loads[owner] += sizes[index];
        owners[index] = owner;
    }
    owners
}
