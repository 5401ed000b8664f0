//! Optimiser steps, in place.

use transdiff_core::backend::AdamW;
use transdiff_core::tensor::AdamWParam;
use transdiff_core::{Backend, Result, Tensor};

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("adamw", 40, adamw);
    suite.cases("adamw of mixed types", 20, mixed_types);
    suite.cases("ema", 40, ema);
    suite.cases("in place", 10, in_place);
    suite.cases("squared norms", 40, squared_norms);
}

/// A large step, so that it dominates the result; four parameters, the second without a gradient. In some cases there are
/// more than a kernel takes per launch.
fn adamw<B: Backend>(case: &mut Case<'_, B>) {
    // A step may nearly cancel a single number, which happens among so many.
    let shapes: Vec<_> = match case.number % 10 {
        4 => (0..70).map(|_| vec![1 + case.below(9), 8]).collect(),
        _ => (0..4).map(|_| case.shape()).collect(),
    };
    let mut inputs = |f: fn(f64) -> f64| shapes.iter().map(|s| case.input(s, f)).collect::<Vec<_>>();
    let (param, grad, m, v) = (inputs(|z| z), inputs(|z| z), inputs(|z| z), inputs(f64::abs));
    let step = case.pick(&[1, 2, 1000]);
    let hyper = AdamW { lr: 0.5, beta1: 0.9, beta2: 0.95, eps: 1e-8, step, grad_scale: 0.7 };
    // Inputs must not change: tensors that share their buffers are copied before the update.
    check!(case, "adamw", [param, grad, m, v] => {
        let own = |list: &[&Tensor<_>]| list.iter().map(|&t| t.clone()).collect::<Vec<_>>();
        let (mut p, mut m, mut v) = (own(&param), own(&m), own(&v));
        let mut params = Vec::new();
        for (i, ((p, m), v)) in p.iter_mut().zip(&mut m).zip(&mut v).enumerate() {
            let grad = (i != 1).then_some(grad[i]);
            params.push(AdamWParam { param: p, grad, m, v, cast: None, weight_decay: 0.1 * (i % 4) as f64 });
        }
        Tensor::adamw_step(param[0].backend(), &hyper, &mut params).map(|()| [p, m, v].concat())
    });
}

/// Parameters of the accumulator's type, with gradients as the pass computes them, and casts to its type. Casts have other
/// memory orders before the step than the parameter.
fn mixed_types<B: Backend>(case: &mut Case<'_, B>) {
    fn step<B: Backend>([param, grad, m, v]: [&[&Tensor<B>]; 4]) -> Result<Vec<Tensor<B>>> {
        let wide = |t: &&Tensor<B>| t.transpose()?.copy()?.transpose()?.cast(t.dtype().accumulator());
        let own = |list: &[&Tensor<B>]| list.iter().map(wide).collect::<Result<Vec<_>>>();
        let (mut p, mut m, mut v) = (own(param)?, own(m)?, own(v)?);
        let mut casts = grad.iter().map(|grad| grad.zeros_like()).collect::<Result<Vec<_>>>()?;
        let hyper = AdamW { lr: 0.5, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 0.7 };
        let mut params = Vec::new();
        let all = p.iter_mut().zip(&mut m).zip(v.iter_mut().zip(&mut casts)).zip(grad);
        for (i, (((param, m), (v, cast)), grad)) in all.enumerate() {
            let cast = (i != 1 && cast.dtype() != param.dtype()).then_some(cast);
            params.push(AdamWParam { param, grad: Some(grad), m, v, cast, weight_decay: 0.1 });
        }
        Tensor::adamw_step(grad[0].backend(), &hyper, &mut params)?;
        for i in (0..3).filter(|&i| i != 1 && casts[i].dtype() != p[i].dtype()) {
            let want = p[i].cast(casts[i].dtype())?.to_f64()?;
            assert!(casts[i].to_f64()? == want, "a cast is the parameter, rounded: {:?}", casts[i].shape());
        }
        Ok([p, m, v].concat())
    }
    let shapes: Vec<_> = (0..3).map(|_| [case.pick(&[1, 3, 70]), case.pick(&[1, 5, 200])]).collect();
    let mut inputs = |f: fn(f64) -> f64| shapes.iter().map(|s| case.input(s, f)).collect::<Vec<_>>();
    let (param, grad, m, v) = (inputs(|z| z), inputs(|z| z), inputs(|z| z), inputs(f64::abs));
    check!(case, "adamw, mixed", [param, grad, m, v] => step([&param, &grad, &m, &v]));
}

fn ema<B: Backend>(case: &mut Case<'_, B>) {
    let shapes: Vec<_> = (0..3).map(|_| case.shape()).collect();
    let mut inputs = || shapes.iter().map(|s| case.normal(s)).collect::<Vec<_>>();
    let (average, param) = (inputs(), inputs());
    let decay = case.pick(&[0.0, 0.5, 0.9999, 1.0]);
    check!(case, "ema", [average, param] => {
        let mut out: Vec<_> = average.iter().map(|&t| t.clone()).collect();
        let mut pairs: Vec<_> = out.iter_mut().zip(param.iter().copied()).collect();
        Tensor::ema_step(param[0].backend(), decay, &mut pairs).map(|()| out)
    });
}

/// Buffers with one owner are updated in place, in any order of axes.
fn in_place<B: Backend>(case: &mut Case<'_, B>) {
    fn step<B: Backend>(inputs: [&Tensor<B>; 4]) -> Result<Vec<Tensor<B>>> {
        let [p, g, m, v] = inputs;
        let turned = |t: &Tensor<B>| t.transpose()?.copy()?.transpose();
        let (mut p, mut m, mut v) = (turned(p)?, turned(m)?, turned(v)?);
        let hyper = AdamW { lr: 0.5, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 1.0 };
        let before = std::ptr::from_ref(p.view().buffer);
        let param =
            AdamWParam { param: &mut p, grad: Some(g), m: &mut m, v: &mut v, cast: None, weight_decay: 0.1 };
        Tensor::adamw_step(g.backend(), &hyper, &mut [param])?;
        Tensor::ema_step(g.backend(), 0.9, &mut [(&mut p, &m)])?;
        assert_eq!(before, std::ptr::from_ref(p.view().buffer));
        Ok(vec![p, m, v])
    }
    let shape = [case.pick(&[1, 3, 70]), case.pick(&[1, 5, 200])];
    let [p, g, m] = [(); 3].map(|()| case.normal(&shape));
    let v = case.input(&shape, f64::abs);
    check!(case, "adamw", [p, g, m, v] => step([p, g, m, v]));
}

fn squared_norms<B: Backend>(case: &mut Case<'_, B>) {
    let tensors: Vec<_> = (0..case.below(4))
        .map(|_| {
            let shape = case.shape();
            case.normal(&shape)
        })
        .collect();
    let ours: Vec<_> = tensors.iter().map(|t| &t.ours).collect();
    let reference: Vec<_> = tensors.iter().map(|t| &t.reference).collect();
    let norm = || Tensor::squared_norm(&case.backend, &ours).unwrap();
    let want = Tensor::squared_norm(&transdiff_core::reference::Reference, &reference).unwrap();
    assert_eq!(norm().to_bits(), norm().to_bits());
    case.check_error("squared_norm", &[norm()], &[want]);
}
