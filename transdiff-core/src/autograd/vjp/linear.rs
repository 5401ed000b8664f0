//! Linear layers.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::Vjp;
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
        wanted: &[bool],
        _: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        let bias = wanted.get(2).copied().unwrap_or(false);
        let wanted_grads = [wanted[0], wanted[1], bias];
        let grads = self.x.linear_backward(&self.w, self.act, self.pre.as_ref(), &dy, wanted_grads)?;
        Ok(grads.into_iter().take(wanted.len()).collect())
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
