//! Outputs that an operation computes only where they are wanted.

use super::array::{Output, Tensor};
use crate::Result;
use crate::backend::{Backend, ViewMut};

/// A gradient; `None` where it was not wanted or there is nothing to differentiate.
pub type Grad<B> = Option<Tensor<B>>;

pub(super) fn finish<B: Backend>(out: Option<Output<B>>, backend: &B) -> Grad<B> {
    out.map(|o| o.finish(backend))
}

pub(super) fn view_of<B: Backend>(out: &mut Option<Output<B>>) -> Option<ViewMut<'_, B>> {
    out.as_mut().map(Output::view)
}

impl<B: Backend> Tensor<B> {
    /// An output of the type of `self`, if it is wanted.
    pub(super) fn output_if(&self, wanted: bool, shape: &[usize]) -> Result<Option<Output<B>>> {
        wanted.then(|| Output::new(&self.backend, self.dtype, shape)).transpose()
    }

    /// A tensor saved for the backward pass, if it is wanted: in the accumulator's type, to keep its precision.
    pub(super) fn saved_if(&self, wanted: bool, shape: &[usize]) -> Result<Option<Output<B>>> {
        wanted.then(|| Output::new(&self.backend, self.dtype.accumulator(), shape)).transpose()
    }
}
