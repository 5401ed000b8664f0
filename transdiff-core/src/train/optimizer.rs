//! AdamW over the parameters of a model.

use super::TrainConfig;
use crate::autograd::Gradients;
use crate::autograd::Param;
use crate::backend::AdamW;
use crate::nn::Module;
use crate::tensor::Slot;
use crate::{Backend, Error, Result, Tensor};

/// Whether weight decay acts on the parameter `name` of a shape of `rank` axes: on those with two axes or more
/// that are not biases and are outside of the diffusion decoder.
pub fn decays(name: &str, rank: usize) -> bool {
    rank >= 2 && !name.ends_with(".bias") && !name.starts_with("diffdecoder")
}

/// First and second moment of a parameter.
#[derive(Clone, Debug)]
pub struct Moments<B: Backend> {
    pub(super) m: Tensor<B>,
    pub(super) v: Tensor<B>,
}

/// AdamW with clipping of the gradients' norm, and what it remembers of each parameter. Frozen parameters have no
/// moments and do not move.
#[derive(Clone, Debug)]
pub struct Optimizer<B: Backend> {
    /// In the order of the model's parameters.
    moments: Vec<Option<Moments<B>>>,
}

impl<B: Backend> Optimizer<B> {
    /// An optimiser that has seen nothing yet.
    pub fn new(module: &dyn Module<B>) -> Result<Self> {
        let zero = |p: &Param<B>| Ok(Moments { m: p.value().zeros_like()?, v: p.value().zeros_like()? });
        let moments = module.params().into_iter().map(|(_, p)| p.is_trainable().then(|| zero(p)).transpose());
        Ok(Self { moments: moments.collect::<Result<_>>()? })
    }

    pub(super) fn moments(&self) -> &[Option<Moments<B>>] {
        &self.moments
    }

    pub(super) fn moments_mut(&mut self) -> &mut [Option<Moments<B>>] {
        &mut self.moments
    }

    /// The global L2 norm of the gradients of `module`'s trainable parameters.
    pub fn grad_norm(backend: &B, module: &dyn Module<B>, grads: &Gradients<B>) -> Result<f64> {
        let trained = module.params().into_iter().filter(|(_, p)| p.is_trainable());
        let found: Vec<&Tensor<B>> = trained.filter_map(|(_, p)| grads.get(p.key())).collect();
        Ok(Tensor::squared_norm(backend, &found)?.sqrt())
    }

    /// One step with the gradients `grads`, `step` counted from 0: clips, then moves every trainable parameter.
    /// One without a gradient has a gradient of zero. Returns the norm before clipping.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the norm is not finite; nothing has moved then.
    pub fn step(
        &mut self,
        backend: &B,
        module: &mut dyn Module<B>,
        grads: &Gradients<B>,
        config: &TrainConfig,
        step: u64,
    ) -> Result<f64> {
        let norm = Self::grad_norm(backend, module, grads)?;
        if !norm.is_finite() {
            return Err(Error::NonFinite { stage: "gradient norm" });
        }
        let hyper = AdamW {
            lr: config.lr.at(step),
            beta1: config.betas[0],
            beta2: config.betas[1],
            eps: config.eps,
            step: step + 1,
            grad_scale: (config.clip / (norm + 1e-6)).min(1.0),
        };
        let mut slots = Vec::with_capacity(self.moments.len());
        for ((name, param), moments) in module.params_mut().into_iter().zip(&mut self.moments) {
            let Some(Moments { m, v }) = moments else { continue };
            let decay = decays(&name, param.value().shape().len());
            slots.push(Slot {
                grad: grads.get(param.key()),
                param: param.value_mut(),
                m,
                v,
                weight_decay: if decay { config.weight_decay } else { 0.0 },
            });
        }
        Tensor::adamw_step(backend, &hyper, &mut slots)?;
        Ok(norm)
    }
}

/// average ← rate · average + (1 − rate) · model, for every trainable parameter. The average of a frozen one is the
/// parameter itself; computing it would round.
pub(super) fn ema_step<B: Backend, M: Module<B>>(
    backend: &B,
    average: &mut M,
    model: &M,
    rate: f64,
) -> Result<()> {
    let params = model.params();
    let averages = average.params_mut();
    let trained = averages.into_iter().zip(&params).filter(|(_, (_, p))| p.is_trainable());
    let mut pairs: Vec<_> = trained.map(|((_, a), (_, p))| (a.value_mut(), p.value())).collect();
    Tensor::ema_step(backend, rate, &mut pairs)
}

#[cfg(test)]
mod tests {
    use super::decays;

    #[test]
    fn only_matrices_outside_of_the_decoder_decay() {
        assert!(decays("encoder_blocks.0.attn.qkv.weight", 2) && decays("mask_token", 3));
        assert!(!decays("encoder_blocks.0.attn.qkv.bias", 1) && !decays("z_proj_ln.weight", 1));
        assert!(!decays("diffdecoder.net.input_proj.weight", 2));
    }
}
