//! Optimiser steps.

use super::{In, Out, Reference, gather, positions, read, scatter};
use crate::backend::{AdamW, AdamWArgs, TrainOps};
use crate::{Layout, Result};

/// Asserts that the layouts have no gaps and lie in memory in one order.
fn assert_same_order(layouts: &[&Layout]) {
    let order = |l: &Layout| -> Vec<usize> { positions(l).into_iter().map(|p| p - l.offset()).collect() };
    let first = order(layouts[0]);
    assert!(first.iter().all(|&p| p < first.len()), "{:?} has no gaps", layouts[0]);
    assert!(layouts.iter().all(|l| order(l) == first), "{layouts:?} lie in one order");
}

fn reborrow<'a>(out: &'a mut Out<'_>) -> Out<'a> {
    Out { buffer: out.buffer, layout: out.layout, dtype: out.dtype }
}

impl TrainOps for Reference {
    fn adamw_step(&self, hyper: &AdamW, params: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        let AdamW { lr, beta1, beta2, eps, step, grad_scale } = *hyper;
        for args in params {
            let mut layouts = vec![args.param.layout, args.m.layout, args.v.layout];
            layouts.extend(args.grad.map(|g| g.layout));
            layouts.extend(args.cast.as_ref().map(|cast| cast.layout));
            assert_same_order(&layouts);
            let values = |t: &Out<'_>| read(t.buffer, t.layout, t.dtype);
            let (mut p, mut m, mut v) = (values(&args.param), values(&args.m), values(&args.v));
            let grad = args.grad.map_or_else(|| vec![0.0; p.len()], gather);
            for i in 0..p.len() {
                let g = grad_scale * grad[i];
                p[i] *= 1.0 - lr * args.weight_decay;
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let m_hat = m[i] / (1.0 - beta1.powf(step as f64));
                let v_hat = v[i] / (1.0 - beta2.powf(step as f64));
                p[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            }
            scatter(reborrow(&mut args.param), p);
            if let Some(cast) = &mut args.cast {
                // Of the parameter as it was rounded.
                scatter(reborrow(cast), read(args.param.buffer, args.param.layout, args.param.dtype));
            }
            scatter(reborrow(&mut args.m), m);
            scatter(reborrow(&mut args.v), v);
        }
        Ok(())
    }

    fn ema_step(&self, decay: f64, pairs: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        for (average, param) in pairs {
            assert_same_order(&[average.layout, param.layout]);
            let old = read(average.buffer, average.layout, average.dtype);
            let new = old.into_iter().zip(gather(*param)).map(|(a, p)| decay * a + (1.0 - decay) * p);
            scatter(reborrow(average), new);
        }
        Ok(())
    }

    fn squared_norms(&self, tensors: &[In<'_>]) -> Result<Vec<f64>> {
        tensors.iter().for_each(|t| assert_same_order(&[t.layout]));
        Ok(tensors.iter().map(|&t| gather(t).into_iter().map(|x| x * x).sum()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use super::*;
    use crate::Tensor;
    use crate::tensor::AdamWParam;

    #[test]
    fn adamw_matches_hand_computed_values() {
        let (mut p, mut m, mut v) = (tensor(&[1], &[2.0]), tensor(&[1], &[0.0]), tensor(&[1], &[0.0]));
        let grad = tensor(&[1], &[8.0]);
        let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1.0, step: 1, grad_scale: 0.5 };
        let param = AdamWParam {
            param: &mut p,
            grad: Some(&grad),
            m: &mut m,
            v: &mut v,
            cast: None,
            weight_decay: 0.5,
        };
        Tensor::adamw_step(&Reference, &hyper, &mut [param]).unwrap();
        // g = 4; after bias correction m̂ = 4 and v̂ = 16; p = 2·0.95 − 0.1·4/(4 + 1).
        assert_close(&m, &[0.4]);
        assert_close(&v, &[0.16]);
        assert_close(&p, &[1.82]);
        let param =
            AdamWParam { param: &mut p, grad: None, m: &mut m, v: &mut v, cast: None, weight_decay: 0.0 };
        Tensor::adamw_step(&Reference, &AdamW { step: 2, ..hyper }, &mut [param]).unwrap();
        assert_close(&m, &[0.36]);
        assert_close(&v, &[0.1584]);
        let root = (0.1584f64 / (1.0 - 0.99 * 0.99)).sqrt();
        assert_close(&p, &[1.82 - 0.1 * (0.36 / 0.19) / (root + 1.0)]);
    }

    #[test]
    fn ema_and_norms_match_hand_computed_values() {
        let (mut average, param) = (tensor(&[2], &[1.0, 2.0]), tensor(&[2], &[5.0, -2.0]));
        Tensor::ema_step(&Reference, 0.75, &mut [(&mut average, &param)]).unwrap();
        assert_close(&average, &[2.0, 1.0]);
        assert_eq!(Tensor::squared_norm(&Reference, &[&average, &param]).unwrap(), 34.0);
    }
}
