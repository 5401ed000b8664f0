//! AdamW and the EMA over the parameters of a model.

use super::TrainConfig;
use super::ranks::Ranks;
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
/// and do not move; if ranks divide the optimiser's state, neither do those that another rank updates.
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

    /// Forgets the moments of the parameters whose numbers `updated` does not accept.
    pub(super) fn keep_part(&mut self, updated: impl Fn(usize) -> bool) {
        let moments = self.moments.iter_mut().enumerate();
        moments.filter(|(i, _)| !updated(*i)).for_each(|(_, moments)| *moments = None);
    }

    pub(super) fn moments(&self) -> &[Option<Moments<B>>] {
        &self.moments
    }

    pub(super) fn moments_mut(&mut self) -> &mut [Option<Moments<B>>] {
        &mut self.moments
    }

    /// One step with the gradients `grads`, `step` counted from 0: clips, then moves every parameter that has moments. A
    /// parameter without a gradient has a gradient of zero. Returns the norm before clipping, of the gradients of all `ranks`.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`], or [`Error::NonFinite`] if only the norm is not finite; nothing has moved then.
    pub(super) fn step<M: Trainable<B>>(
        &mut self,
        model: &mut M,
        grads: &Gradients<B>,
        config: &TrainConfig<M::Objective>,
        step: u64,
        ranks: Option<&Ranks<B>>,
    ) -> Result<f64> {
        let backend = model.backend().clone();
        let params = model.params();
        let ordered = |param: &Param<B>| grads.get(param.key()).map(|grad| grad.ordered_like(param.value()));
        let grads: Vec<Option<Tensor<B>>> =
            params.iter().map(|(_, param)| ordered(param).transpose()).collect::<Result<_>>()?;
        let norm = grad_norm(&params, &grads, ranks)?;
        drop(params);
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
            for ((((_, param), group), moments), grad) in
                model.params_mut().into_iter().zip(&groups).zip(&mut self.moments).zip(&grads)
            {
                let Some(Moments { m, v }) = moments else { continue };
                if group.lr_factor != factor {
                    continue;
                }
                let (param, cast) = param.values_mut();
                slots.push(AdamWParam {
                    grad: grad.as_ref(),
                    param,
                    m,
                    v,
                    cast,
                    weight_decay: if group.weight_decay { config.weight_decay } else { 0.0 },
                });
            }
            Tensor::adamw_step(&backend, &AdamW { lr: factor * hyper.lr, ..hyper }, &mut slots)?;
        }
        Ok(norm)
    }
}

/// The global L2 norm of the gradients of the trainable parameters, of which each of `ranks` may have a part. The squares are
/// added parameter by parameter, each in the order of its memory, so that the norm does not depend on the division.
///
/// # Errors
/// [`Error::NonFiniteGradient`] naming the first parameter whose gradient is not finite; [`Error::NonFinite`] if there is
/// none, and the sum of the squares has overflowed.
fn grad_norm<B: Backend>(
    params: &[(String, &Param<B>)],
    grads: &[Option<Tensor<B>>],
    ranks: Option<&Ranks<B>>,
) -> Result<f64> {
    let trained = params.iter().zip(grads).filter(|((_, param), _)| param.is_trainable());
    let found: Vec<&Tensor<B>> = trained.clone().filter_map(|(_, grad)| grad.as_ref()).collect();
    let Some(backend) = params.first().map(|(_, param)| param.value().backend()) else { return Ok(0.0) };
    let mut sums = Tensor::squared_norms(backend, &found)?.into_iter();
    let sums = trained.clone().map(|(_, grad)| grad.as_ref().and_then(|_| sums.next()).unwrap_or(0.0));
    let sums: Vec<f64> = sums.collect();
    let sums = match ranks {
        Some(ranks) => ranks.gather_numbers(sums)?,
        None => sums,
    };
    let norm = sums.iter().sum::<f64>().sqrt();
    if norm.is_finite() {
        return Ok(norm);
    }
    match trained.zip(&sums).find(|(_, sum)| !sum.is_finite()) {
        Some((((name, _), _), _)) => Err(Error::NonFiniteGradient { parameter: name.clone() }),
        None => Err(Error::NonFinite { stage: "gradient norm" }),
    }
}

/// Groups of all parameters, in their order.
pub(super) fn param_groups<B: Backend, M: Trainable<B>>(model: &M) -> Vec<ParamGroup> {
    let group = |(name, param): (String, &Param<B>)| model.param_group(&name, param.value().shape().len());
    model.params().into_iter().map(group).collect()
}

impl<B: Backend> Optimizer<B> {
    /// ema ← decay · ema + (1 − decay) · model, for every parameter that has moments. The EMA of a frozen one is the parameter
    /// itself; computing it would round.
    pub(super) fn ema_step<M: Module<B>>(
        &self,
        backend: &B,
        ema: &mut M,
        model: &M,
        decay: f64,
    ) -> Result<()> {
        let averages = ema.params_mut().into_iter().zip(model.params()).zip(&self.moments);
        let updated = averages.filter(|(_, moments)| moments.is_some());
        let mut pairs: Vec<_> = updated.map(|(((_, a), (_, p)), _)| (a.value_mut(), p.value())).collect();
        Tensor::ema_step(backend, decay, &mut pairs)
    }
}
