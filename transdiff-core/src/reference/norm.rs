//! LayerNorm with modulation, and gated residual connections.

use super::{In, Out, Reference, gather, gather_contiguous, kept, scatter_contiguous};
use crate::backend::{NormArgs, NormGrads};
use crate::rng::Dropout;

/// Inputs of a norm, gathered; absent weights are 1, absent biases, scales and shifts 0.
struct Norm {
    dims: [usize; 3],
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    scale: Vec<f64>,
    shift: Vec<f64>,
    eps: f64,
}

impl Norm {
    fn new(args: NormArgs<'_, Reference>) -> Self {
        let &[g, r, d] = args.x.layout.shape() else { panic!("x is [G, R, D]") };
        let (weight, bias) = match args.affine {
            Some((w, b)) => (gather_contiguous(w, &[d]), gather_contiguous(b, &[d])),
            None => (vec![1.0; d], vec![0.0; d]),
        };
        let (scale, shift) = match args.modulation {
            Some((s, t)) => (per_group(s, g, d), per_group(t, g, d)),
            None => (vec![0.0; g * d], vec![0.0; g * d]),
        };
        let x = gather_contiguous(args.x, &[g, r, d]);
        Self { dims: [g, r, d], x, weight, bias, scale, shift, eps: args.eps }
    }

    /// (mean, rstd) of a row of x.
    fn stats(&self, row: usize) -> (f64, f64) {
        let d = self.dims[2];
        let x = &self.x[row * d..][..d];
        let mean = x.iter().sum::<f64>() / d as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

/// A [G, D] input whose last stride is 1.
fn per_group(x: In<'_>, g: usize, d: usize) -> Vec<f64> {
    assert_eq!(x.layout.shape(), [g, d]);
    assert!(d <= 1 || x.layout.strides()[1] == 1, "{:?} has last stride 1", x.layout);
    gather(x)
}

pub(super) fn forward(args: NormArgs<'_, Reference>, y: Out<'_>, stats: Option<Out<'_>>) {
    let norm = Norm::new(args);
    let [g, r, d] = norm.dims;
    let (mut out, mut rows) = (Vec::new(), Vec::new());
    for row in 0..g * r {
        let (mean, rstd) = norm.stats(row);
        rows.extend([mean, rstd]);
        for c in 0..d {
            let normed = (norm.x[row * d + c] - mean) * rstd;
            let at = row / r * d + c;
            out.push((normed * norm.weight[c] + norm.bias[c]) * (1.0 + norm.scale[at]) + norm.shift[at]);
        }
    }
    scatter_contiguous(y, &[g, r, d], out);
    if let Some(stats) = stats {
        scatter_contiguous(stats, &[g, r, 2], rows);
    }
}

/// Recomputes mean and rstd instead of reading `stats`, so that the reference depends on as little as possible.
pub(super) fn backward(
    args: NormArgs<'_, Reference>,
    stats: In<'_>,
    dy: In<'_>,
    grads: NormGrads<'_, Reference>,
) {
    let norm = Norm::new(args);
    let [g, r, d] = norm.dims;
    gather_contiguous(stats, &[g, r, 2]);
    let dy = gather_contiguous(dy, &[g, r, d]);
    let (mut dx, mut dweight, mut dbias) = (vec![0.0; g * r * d], vec![0.0; d], vec![0.0; d]);
    let (mut dscale, mut dshift) = (vec![0.0; g * d], vec![0.0; g * d]);
    for row in 0..g * r {
        let (mean, rstd) = norm.stats(row);
        let normed: Vec<f64> = (0..d).map(|c| (norm.x[row * d + c] - mean) * rstd).collect();
        let mut dnormed = vec![0.0; d];
        for c in 0..d {
            let (at, dy) = (row / r * d + c, dy[row * d + c]);
            dshift[at] += dy;
            dscale[at] += dy * (normed[c] * norm.weight[c] + norm.bias[c]);
            dbias[c] += dy * (1.0 + norm.scale[at]);
            dweight[c] += dy * (1.0 + norm.scale[at]) * normed[c];
            dnormed[c] = dy * (1.0 + norm.scale[at]) * norm.weight[c];
        }
        // The Jacobian of x̂ removes the mean and the component along x̂.
        let mean_d = dnormed.iter().sum::<f64>() / d as f64;
        let along = dnormed.iter().zip(&normed).map(|(a, b)| a * b).sum::<f64>() / d as f64;
        for c in 0..d {
            dx[row * d + c] = rstd * (dnormed[c] - mean_d - normed[c] * along);
        }
    }
    if let Some(residual) = grads.residual {
        let residual = gather_contiguous(residual, &[g, r, d]);
        dx.iter_mut().zip(residual).for_each(|(dx, residual)| *dx += residual);
    }
    if let Some(out) = grads.dx {
        scatter_contiguous(out, &[g, r, d], dx);
    }
    if let Some((w, b)) = grads.daffine {
        scatter_contiguous(w, &[d], dweight);
        scatter_contiguous(b, &[d], dbias);
    }
    if let Some((s, t)) = grads.dmodulation {
        scatter_contiguous(s, &[g, d], dscale);
        scatter_contiguous(t, &[g, d], dshift);
    }
}

/// The gate of element `i` of a [G, R, D] tensor.
fn gates(gate: Option<In<'_>>, [g, r, d]: [usize; 3]) -> impl Fn(usize) -> f64 {
    let gate = gate.map(|t| per_group(t, g, d));
    move |i| gate.as_ref().map_or(1.0, |gate| gate[i / (r * d) * d + i % d])
}

fn dims(u: In<'_>) -> [usize; 3] {
    u.layout.shape().try_into().expect("u is [G, R, D]")
}

pub(super) fn gated_residual(
    x: In<'_>,
    u: In<'_>,
    gate: Option<In<'_>>,
    dropout: Option<Dropout>,
    y: Out<'_>,
) {
    let dims = dims(u);
    let gate = gates(gate, dims);
    let (x, u) = (gather_contiguous(x, &dims), gather_contiguous(u, &dims));
    scatter_contiguous(y, &dims, (0..x.len()).map(|i| x[i] + gate(i) * kept(dropout, i, x.len()) * u[i]));
}

pub(super) fn gated_residual_backward(
    u: In<'_>,
    gate: Option<In<'_>>,
    dropout: Option<Dropout>,
    dy: In<'_>,
    du: Out<'_>,
    dgate: Option<Out<'_>>,
) {
    let dims @ [g, r, d] = dims(u);
    assert!(dgate.is_none() || gate.is_some());
    let gate = gates(gate, dims);
    let (u, dy) = (gather_contiguous(u, &dims), gather_contiguous(dy, &dims));
    scatter_contiguous(du, &dims, (0..u.len()).map(|i| gate(i) * kept(dropout, i, u.len()) * dy[i]));
    if let Some(dgate) = dgate {
        let mut sums = vec![0.0; g * d];
        for i in 0..u.len() {
            sums[i / (r * d) * d + i % d] += kept(dropout, i, u.len()) * u[i] * dy[i];
        }
        scatter_contiguous(dgate, &[g, d], sums);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::rng::{Dropout, Purpose, StreamKey};
    use crate::tensor::Modulation;

    #[test]
    fn a_known_row() {
        // Mean 2, variance 1, so that x̂ = ±1 without eps.
        let x = tensor(&[1, 1, 2], &[1.0, 3.0]);
        let (w, b) = (tensor(&[2], &[2.0, 5.0]), tensor(&[2], &[0.5, 0.25]));
        let row = |values: &[f64]| tensor(&[1, 1, 2], values);
        let modulation = Modulation { scale: row(&[1.0, -0.5]), shift: row(&[10.0, 20.0]) };
        let out = x.norm_modulate(Some((&w, &b)), Some(&modulation), 0.0, true).unwrap();
        assert_close(&out.y, &[(-2.0 + 0.5) * 2.0 + 10.0, (5.0 + 0.25) * 0.5 + 20.0]);
        let stats = out.stats.unwrap();
        assert_close(&stats, &[2.0, 1.0]);
        assert_close(&x.norm_modulate(None, None, 3.0, false).unwrap().y, &[-0.5, 0.5]);

        let dy = row(&[1.0, 2.0]);
        let grads = x
            .norm_modulate_backward(Some((&w, &b)), Some(&modulation), 0.0, &stats, (&dy, None), [true; 3])
            .unwrap();
        let [dx, dw, db, dscale, dshift] = grads.map(Option::unwrap);
        // With two channels x̂ cannot change but by swapping sides.
        assert_close(&dx, &[0.0, 0.0]);
        assert_close(&dw, &[-2.0, 1.0]);
        assert_close(&db, &[2.0, 1.0]);
        assert_close(&dscale, &[-1.5, 10.5]);
        assert_close(&dshift, &[1.0, 2.0]);
    }

    #[test]
    fn gradient_of_a_plain_norm() {
        // x̂ = (−1, 0, 1)·√1.5, rstd = √1.5; dy = (1, 0, 0) less its mean and its part along x̂.
        let x = tensor(&[3], &[-1.0, 0.0, 1.0]);
        let stats = x.norm_modulate(None, None, 0.0, true).unwrap().stats.unwrap();
        let dy = tensor(&[3], &[1.0, 0.0, 0.0]);
        let [dx, ..] =
            x.norm_modulate_backward(None, None, 0.0, &stats, (&dy, None), [true, false, false]).unwrap();
        let rstd = 1.5f64.sqrt();
        assert_close(&dx.unwrap(), &[rstd / 6.0, -rstd / 3.0, rstd / 6.0]);
    }

    #[test]
    fn gates_and_dropout() {
        let (x, u) = (tensor(&[1, 2, 1], &[1.0, 2.0]), tensor(&[1, 2, 1], &[3.0, 4.0]));
        let gate = tensor(&[1, 1, 1], &[10.0]);
        assert_close(&x.gated_residual(&u, Some(&gate), None).unwrap(), &[31.0, 42.0]);
        let [du, dgate] = u.gated_residual_backward(Some(&gate), None, &x, true).unwrap().map(Option::unwrap);
        assert_close(&du, &[10.0, 20.0]);
        assert_close(&dgate, &[11.0]);

        let dropout = Dropout { rate: 0.5, key: StreamKey::new(3, Purpose::Dropout, 1, 2), samples: 1 };
        let ones = tensor(&[1, 8, 1], &[1.0; 8]);
        let mask: Vec<f64> = (0..8).map(|e| f64::from(dropout.factor(e, 8))).collect();
        assert!(mask.contains(&0.0) && mask.contains(&2.0));
        let with = ones.gated_residual(&ones, None, Some(dropout)).unwrap();
        assert_close(&with.affine(1.0, -1.0).unwrap(), &mask);

        // Two samples of four elements: the second has the stream of the next number.
        let next = Dropout { key: StreamKey::new(3, Purpose::Dropout, 1, 3), ..dropout };
        let both: Vec<f64> =
            [dropout, next].iter().flat_map(|d| (0..4).map(|e| f64::from(d.factor(e, 4)))).collect();
        assert_ne!(both, mask);
        let pair = tensor(&[2, 4, 1], &[1.0; 8]);
        let of_two = Some(Dropout { samples: 2, ..dropout });
        let with = pair.gated_residual(&pair, None, of_two).unwrap();
        assert_close(&with.affine(1.0, -1.0).unwrap(), &both);
    }
}
