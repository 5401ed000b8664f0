//! Batch invariance: results of a row (token, image) alone and in a batch, also with dropout.

use transdiff_core::backend::Activation;
use transdiff_core::rng::{Dropout, StreamKey};
use transdiff_core::tensor::{Attention, Conv, Modulation, ScaleShift};
use transdiff_core::{Backend, Result, Tensor};

use crate::guarded::Guarded;
use crate::harness::{Case, Suite, digest};

/// Checks that results per row are bitwise identical alone and in a batch.
pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("rows of linear layers", 20, |case| linear(case).unwrap());
    suite.cases("images of norms and residuals", 20, |case| norms(case).unwrap());
    suite.cases("images of convolutions", 20, |case| images(case).unwrap());
    suite.cases("rows of attention", 20, |case| attention(case).unwrap());
}

/// Compares each part of `len` along `axis` of `whole` with the result of `f` for that part alone.
fn parts<B: Backend>(
    whole: &Tensor<B>,
    axis: usize,
    len: usize,
    f: impl Fn(&dyn Fn(&Tensor<B>) -> Result<Tensor<B>>) -> Result<Tensor<B>>,
) -> Result<()> {
    for start in (0..whole.dim(axis)).step_by(len) {
        let cut = |t: &Tensor<B>| t.narrow(axis, start, len.min(t.dim(axis) - start));
        assert_eq!(digest(&cut(whole)?), digest(&f(&cut)?), "part {start} of length {len} of axis {axis}");
    }
    Ok(())
}

/// Compares each part of `len` samples of f(whole batch, its dropout) with f(part alone, the part's dropout), where
/// the leading axis of every tensor counts `samples` samples.
fn samples<B: Backend>(
    dropout: Dropout,
    len: usize,
    f: impl Fn(&dyn Fn(&Tensor<B>) -> Result<Tensor<B>>, Dropout) -> Result<Tensor<B>>,
) -> Result<()> {
    let whole = f(&|t| Ok(t.clone()), dropout)?;
    for start in (0..dropout.samples).step_by(len) {
        let samples = len.min(dropout.samples - start);
        let step = dropout.key.step.wrapping_add(start as u32);
        let part = Dropout { key: StreamKey { step, ..dropout.key }, samples, ..dropout };
        let cut = |t: &Tensor<B>| {
            let rows = t.dim(0) / dropout.samples;
            t.narrow(0, start * rows, samples * rows)
        };
        assert_eq!(digest(&cut(&whole)?), digest(&f(&cut, part)?), "{samples} samples from {start} on");
    }
    Ok(())
}

fn linear<B: Backend>(case: &mut Case<'_, B>) -> Result<()> {
    let [m, n, k] = [case.pick(&[2, 7, 65, 130]), case.pick(&[1, 33, 100]), case.pick(&[1, 7, 129, 600])];
    let act = case.pick(&[Activation::None, Activation::Gelu]);
    let [x, w, b] = [&[m, k][..], &[n, k], &[n]].map(|shape| case.normal(shape).ours);
    let (y, _) = x.linear(&w, Some(&b), act, false)?;
    for len in [1, 5, m.div_ceil(2)] {
        parts(&y, 0, len, |cut| Ok(cut(&x)?.linear(&w, Some(&b), act, false)?.0))?;
        let dropout = Dropout { samples: m, ..case.dropout(m) };
        samples(dropout, len, |cut, dropout| {
            Ok(cut(&x)?.linear(&w, Some(&b), Activation::GeluDropout(dropout), false)?.0)
        })?;
    }
    Ok(())
}

fn norms<B: Backend>(case: &mut Case<'_, B>) -> Result<()> {
    let [g, r, d] = [case.pick(&[2, 5]), case.pick(&[1, 7, 70]), case.pick(&[1, 8, 65, 257])];
    let [x, u] = [(); 2].map(|()| case.normal(&[g, r, d]).ours);
    let [scale, shift, gate] = [(); 3].map(|()| case.normal(&[g, 1, d]).ours);
    let rows = x.norm_modulate(None, None, 1e-6, false)?.y;
    let modulation = Modulation { scale, shift };
    let y = x.norm_modulate(None, Some(&modulation), 1e-6, false)?.y;
    let sum = x.gated_residual(&u, Some(&gate), None)?;
    for len in [1, g.div_ceil(2)] {
        parts(&y, 0, len, |cut| {
            let modulation = Modulation { scale: cut(&modulation.scale)?, shift: cut(&modulation.shift)? };
            Ok(cut(&x)?.norm_modulate(None, Some(&modulation), 1e-6, false)?.y)
        })?;
        parts(&sum, 0, len, |cut| cut(&x)?.gated_residual(&cut(&u)?, Some(&cut(&gate)?), None))?;
        let dropout = Dropout { samples: g, ..case.dropout(g) };
        samples(dropout, len, |cut, dropout| cut(&x)?.gated_residual(&cut(&u)?, None, Some(dropout)))?;
        samples(dropout, len, |cut, dropout| {
            cut(&x)?.gated_residual(&cut(&u)?, Some(&cut(&gate)?), Some(dropout))
        })?;
        samples(dropout, len, |cut, dropout| {
            let [du, _] =
                cut(&u)?.gated_residual_backward(Some(&cut(&gate)?), Some(dropout), &cut(&x)?, false)?;
            Ok(du.unwrap())
        })?;
    }
    parts(&rows, 1, 1, |cut| Ok(cut(&x)?.norm_modulate(None, None, 1e-6, false)?.y))
}

fn images<B: Backend>(case: &mut Case<'_, B>) -> Result<()> {
    let [b, h, w] = [case.pick(&[2, 5]), case.pick(&[1, 9, 40]), case.pick(&[2, 8, 33])];
    let [c, o, k] = [case.pick(&[2, 16, 64]), case.pick(&[3, 50, 130]), case.pick(&[1, 3])];
    let [x, weight, bias, scale] =
        [&[b, h, w, c][..], &[o, c, k, k], &[o], &[c]].map(|shape| case.normal(shape).ours);
    let y = |x: &Tensor<Guarded<B>>| {
        let scale_shift = ScaleShift { coefficients: x.group_norm(&scale, &scale, 2, 1e-6)?, silu: true };
        let padding = [[k / 2; 2]; 2];
        x.conv2d(&weight, &bias, &Conv { scale_shift: Some(&scale_shift), padding, ..Conv::default() })
    };
    parts(&y(&x)?, 0, 1, |cut| y(&cut(&x)?))
}

fn attention<B: Backend>(case: &mut Case<'_, B>) -> Result<()> {
    let [b, h, e] = [case.pick(&[2, 5]), case.pick(&[1, 3]), case.pick(&[1, 8, 24, 64])];
    let [nq, nkv] = [case.pick(&[1, 6, 65, 150]), case.pick(&[1, 6, 65, 150])];
    let q = case.normal(&[b, nq, h, e]).ours;
    let [k, v] = [(); 2].map(|()| case.normal(&[b, nkv, h, e]).ours);
    let plain = Attention::default();
    let (y, _) = q.attention(&k, &v, &plain, false)?;
    parts(&y, 0, 1, |cut| Ok(cut(&q)?.attention(&cut(&k)?, &cut(&v)?, &plain, false)?.0))?;
    for len in [1, 5, nq.div_ceil(2)] {
        parts(&y, 1, len, |cut| Ok(cut(&q)?.attention(&k, &v, &plain, false)?.0))?;
    }
    // Each sample has two images, as the noised copies in training.
    let q = case.normal(&[2 * b, nq, h, e]).ours;
    let [k, v] = [(); 2].map(|()| case.normal(&[2 * b, nkv, h, e]).ours);
    let dropout = Dropout { samples: b, ..case.dropout(b) };
    for len in [1, 2] {
        samples(dropout, len, |cut, dropout| {
            let how = Attention { segment_ends: None, dropout: Some(dropout) };
            let (q, k, v) = (cut(&q)?, cut(&k)?, cut(&v)?);
            let (y, saved) = q.attention(&k, &v, &how, true)?;
            let grads = q.attention_backward(&k, &v, &how, &y, &saved.unwrap(), &y)?;
            let [dq, dk, dv] = &grads;
            let flat: Vec<_> =
                [&y, dq, dk, dv].map(|t| t.reshape(&[t.dim(0), t.numel() / t.dim(0)]).unwrap()).into();
            Tensor::cat(&flat.iter().collect::<Vec<_>>(), 1)
        })?;
    }
    // Queries of a block-causal mask are at the end of the keys, so that the last queries alone see the same keys.
    let how = Attention {
        segment_ends: Some((0..=nq.max(nkv)).step_by(4).skip(1).chain([nq.max(nkv) + 5]).collect()),
        dropout: None,
    };
    let n = *how.segment_ends.as_ref().unwrap().last().unwrap();
    let [q, k, v] = [(); 3].map(|()| case.normal(&[1, n, h, e]).ours);
    let (y, _) = q.attention(&k, &v, &how, false)?;
    let (start, len) = (n / 2, n - n / 2);
    let (late, _) = q.narrow(1, start, len)?.attention(&k, &v, &how, false)?;
    assert_eq!(digest(&y.narrow(1, start, len)?), digest(&late));
    Ok(())
}
