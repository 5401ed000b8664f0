//! Linear layers.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record, recorded};
use crate::backend::Activation;
use crate::{Backend, Result, Tensor};

/// Saves the input, the weight and, with an activation, the pre-activation.
struct Linear<B: Backend> {
    x: Tensor<B>,
    w: Tensor<B>,
    act: Activation,
    pre: Option<Tensor<B>>,
}

impl<B: Backend> Vjp<B> for Linear<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        let wanted = [0, 1, 2].map(|i| inputs.is_wanted(i));
        let grads = self.x.linear_backward(&self.w, self.act, self.pre.as_ref(), &dy, wanted)?;
        Ok(grads.into_iter().take(inputs.count()).collect())
    }
}

impl<B: Backend> Var<B> {
    /// act(self · wᵀ + b): self [.., K], w [N, K], b `[N]` → [.., N].
    pub fn linear(&self, w: &Self, b: Option<&Self>, act: Activation) -> Result<Self> {
        let inputs: Vec<&Self> = [self, w].into_iter().chain(b).collect();
        let (y, pre) = self.value().linear(w.value(), b.map(Self::value), act, recorded(&inputs))?;
        record(y, &inputs, || Linear { x: self.value().clone(), w: w.value().clone(), act, pre })
    }
}
