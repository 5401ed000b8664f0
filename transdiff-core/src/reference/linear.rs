//! Linear layers.

use super::{In, Out, gather, gather_contiguous, kept, scatter, scatter_contiguous};
use crate::backend::{Activation, LinearGrads};

/// Φ(x), the standard normal distribution function.
fn phi(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn activate(act: Activation, x: f64) -> f64 {
    match act {
        Activation::None => x,
        Activation::Gelu | Activation::GeluDropout(_) => x * phi(x),
    }
}

fn derivative(act: Activation, x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    match act {
        Activation::None => 1.0,
        Activation::Gelu | Activation::GeluDropout(_) => phi(x) + x * density,
    }
}

/// [M, N, K], and the weight in row-major order.
fn weight(x: In<'_>, w: In<'_>) -> ([usize; 3], Vec<f64>) {
    let (&[m, k], &[n, _]) = (x.layout.shape(), w.layout.shape()) else { panic!("x and w are matrices") };
    assert_eq!(w.layout.shape(), [n, k]);
    let transposed = w.layout.permute(&[1, 0]).expect("w is a matrix");
    assert!(w.layout.is_contiguous() || transposed.is_contiguous(), "{:?} has no gaps", w.layout);
    ([m, n, k], gather(w))
}

pub(super) fn forward(
    x: In<'_>,
    w: In<'_>,
    b: Option<In<'_>>,
    act: Activation,
    y: Out<'_>,
    pre: Option<Out<'_>>,
) {
    let ([m, n, k], weight) = weight(x, w);
    let (x, b) = (gather_contiguous(x, &[m, k]), b.map(|b| gather_contiguous(b, &[n])));
    let mut out = vec![0.0; m * n];
    for (i, out) in out.iter_mut().enumerate() {
        let (row, col) = (i / n, i % n);
        let product: f64 = (0..k).map(|l| x[row * k + l] * weight[col * k + l]).sum();
        *out = product + b.as_ref().map_or(0.0, |b| b[col]);
    }
    if let Some(pre) = pre {
        scatter_contiguous(pre, &[m, n], out.iter().copied());
    }
    let kept = |i| kept(act.dropout(), i, m * n);
    scatter_contiguous(y, &[m, n], out.into_iter().enumerate().map(|(i, v)| activate(act, v) * kept(i)));
}

pub(super) fn backward(
    x: In<'_>,
    w: In<'_>,
    act: Activation,
    pre: Option<In<'_>>,
    dy: In<'_>,
    grads: LinearGrads<'_, super::Reference>,
) {
    let ([m, n, k], weight) = weight(x, w);
    assert_eq!(pre.is_some(), act != Activation::None);
    let (x, mut g) = (gather_contiguous(x, &[m, k]), gather_contiguous(dy, &[m, n]));
    if let Some(pre) = pre {
        for (i, (g, pre)) in g.iter_mut().zip(gather_contiguous(pre, &[m, n])).enumerate() {
            *g *= derivative(act, pre) * kept(act.dropout(), i, m * n);
        }
    }
    let (mut dx, mut dw, mut db) = (vec![0.0; m * k], vec![0.0; n * k], vec![0.0; n]);
    for row in 0..m {
        for col in 0..n {
            let g = g[row * n + col];
            db[col] += g;
            for l in 0..k {
                dx[row * k + l] += g * weight[col * k + l];
                dw[col * k + l] += g * x[row * k + l];
            }
        }
    }
    if let Some(out) = grads.dx {
        scatter_contiguous(out, &[m, k], dx);
    }
    if let Some(out) = grads.dw {
        assert_eq!(out.layout.shape(), [n, k]);
        scatter(out, dw);
    }
    if let Some(out) = grads.db {
        scatter_contiguous(out, &[n], db);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::backend::Activation::{Gelu, None as Plain};

    #[test]
    fn gelu_of_one() {
        let one = tensor(&[1, 1], &[1.0]);
        let (y, pre) = one.linear(&one, None, Gelu, true).unwrap();
        assert_close(&y, &[0.841_344_746_068_542_9]);
        let pre = pre.unwrap();
        assert_close(&pre, &[1.0]);
        // Φ(1) + φ(1) = 0.8413… + 0.2419…
        let [dx, ..] = one.linear_backward(&one, Gelu, Some(&pre), &one, [true, false, false]).unwrap();
        assert_close(&dx.unwrap(), &[1.083_315_470_587_686_4]);
    }

    #[test]
    fn linear_matches_hand_computed_values() {
        let x = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let w = tensor(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]);
        let b = tensor(&[3], &[10.0, 20.0, 30.0]);
        let (y, pre) = x.linear(&w, Some(&b), Plain, true).unwrap();
        assert!(pre.is_none());
        assert_close(&y, &[11.0, 22.0, 29.0, 13.0, 24.0, 29.0]);
        let dy = tensor(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 1.0, 0.0]);
        let [dx, dw, db] = x.linear_backward(&w, Plain, None, &dy, [true; 3]).unwrap().map(Option::unwrap);
        assert_close(&dx, &[4.0, -1.0, 0.0, 1.0]);
        assert_close(&dw, &[1.0, 2.0, 5.0, 8.0, 3.0, 6.0]);
        assert_close(&db, &[1.0, 3.0, 3.0]);
    }
}
