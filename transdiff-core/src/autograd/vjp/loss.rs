//! Mean squared error.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record};
use crate::{Backend, Result, Tensor};

struct Mse<B: Backend> {
    a: Tensor<B>,
    target: Tensor<B>,
}

impl<B: Backend> Vjp<B> for Mse<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        _: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        Ok(vec![Some(self.a.mse_backward(&self.target, &dy)?)])
    }
}

impl<B: Backend> Var<B> {
    /// mean (self − target)², of shape [].
    pub fn mse(&self, target: &Tensor<B>) -> Result<Self> {
        let loss = self.value().mse(target)?;
        record(loss, &[self], || Mse { a: self.value().clone(), target: target.clone() })
    }
}
