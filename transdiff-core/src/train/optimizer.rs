//! AdamW and the EMA over the parameters of a model.

use super::TrainConfig;
use crate::autograd::Gradients;
use crate::autograd::Param;
use crate::backend::AdamW;
use crate::models::{ParamGroup, Trainable};
use crate::nn::Module;
use crate::tensor::AdamWParam;
use crate::{Backend, Error, Result, Tensor};

/// First and second moment of a parameter.
#[derive(Clone, Debug)]
pub struct Moments<B: Backend> {
    pub(super) m: Tensor<B>,
    pub(super) v: Tensor<B>,
}

/// AdamW with clipping by the global gradient norm, and the moments of each parameter. Frozen parameters have no moments
/// and do not move.
#[derive(Clone, Debug)]
pub struct Optimizer<B: Backend> {
    /// In the order of the model's parameters.
    moments: Vec<Option<Moments<B>>>,
}

impl<B: Backend> Optimizer<B> {
    /// An optimiser before its first step.
    pub fn new(module: &impl Module<B>) -> Result<Self> {
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

    /// One step with the gradients `grads`, `step` counted from 0: clips, then moves every trainable parameter. A
    /// parameter without a gradient has a gradient of zero. Returns the norm before clipping.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`], or [`Error::NonFinite`] if only the norm is not finite; nothing has moved then.
    pub fn step<M: Trainable<B>>(
        &mut self,
        model: &mut M,
        grads: &Gradients<B>,
        config: &TrainConfig<M::Objective>,
        step: u64,
    ) -> Result<f64> {
        let backend = model.backend().clone();
        let norm = Self::grad_norm(&backend, model, grads)?;
        if !norm.is_finite() {
            return Err(non_finite(model, grads)?);
        }
        let hyper = AdamW {
            lr: config.lr.at(step),
            beta1: config.betas[0],
            beta2: config.betas[1],
            eps: config.eps,
            step: step + 1,
            grad_scale: (config.max_grad_norm / (norm + 1e-6)).min(1.0),
        };
        let groups = param_groups(model);
        let mut factors: Vec<f64> = groups.iter().map(|group| group.lr_factor).collect();
        factors.sort_by(f64::total_cmp);
        factors.dedup();
        // One call for all parameters of one learning rate.
        for factor in factors {
            let mut slots = Vec::with_capacity(self.moments.len());
            for (((_, param), group), moments) in
                model.params_mut().into_iter().zip(&groups).zip(&mut self.moments)
            {
                let Some(Moments { m, v }) = moments else { continue };
                if group.lr_factor != factor {
                    continue;
                }
                slots.push(AdamWParam {
                    grad: grads.get(param.key()),
                    param: param.value_mut(),
                    m,
                    v,
                    weight_decay: if group.weight_decay { config.weight_decay } else { 0.0 },
                });
            }
            Tensor::adamw_step(&backend, &AdamW { lr: factor * hyper.lr, ..hyper }, &mut slots)?;
        }
        Ok(norm)
    }
}

/// Error for gradients whose norm is not finite. It names the first parameter whose gradient is not; if there is none, the
/// sum of the squares has overflowed.
fn non_finite<B: Backend>(module: &dyn Module<B>, grads: &Gradients<B>) -> Result<Error> {
    for (name, param) in module.params().into_iter().filter(|(_, param)| param.is_trainable()) {
        if grads.get(param.key()).map_or(Ok(true), Tensor::is_finite)? {
            continue;
        }
        return Ok(Error::NonFiniteGradient { parameter: name });
    }
    Ok(Error::NonFinite { stage: "gradient norm" })
}

/// Groups of all parameters, in their order.
pub(super) fn param_groups<B: Backend, M: Trainable<B>>(model: &M) -> Vec<ParamGroup> {
    let group = |(name, param): (String, &Param<B>)| model.param_group(&name, param.value().shape().len());
    model.params().into_iter().map(group).collect()
}

/// ema ← decay · ema + (1 − decay) · model, for every trainable parameter. The EMA of a frozen one is the parameter
/// itself; computing it would round.
pub(super) fn ema_step<B: Backend, M: Module<B>>(
    backend: &B,
    ema: &mut M,
    model: &M,
    decay: f64,
) -> Result<()> {
    let params = model.params();
    let averages = ema.params_mut();
    let trained = averages.into_iter().zip(&params).filter(|(_, (_, p))| p.is_trainable());
    let mut pairs: Vec<_> = trained.map(|((_, a), (_, p))| (a.value_mut(), p.value())).collect();
    Tensor::ema_step(backend, decay, &mut pairs)
}
