//! Multi-head attention.

use super::{In, Out, Reference, gather, gather_contiguous, kept, scatter, scatter_contiguous};
use crate::backend::{AttentionArgs, AttentionGrads, qkv_layouts, visible_len};
use crate::rng::Dropout;

/// Inputs of an attention, gathered.
struct Inputs {
    /// B, Nq, Nkv, H, E.
    dims: [usize; 5],
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    /// Number of leading keys that each query attends to.
    visible: Vec<usize>,
    scale: f64,
    /// Words of the dropout mask, and the factor of kept probabilities.
    dropout: Option<(Vec<u32>, f64)>,
}

impl Inputs {
    fn new(args: AttentionArgs<'_, Reference>) -> Self {
        let &[b, nq, h, e] = args.q.layout.shape() else { panic!("q is [B, Nq, H, E]") };
        let nkv = args.k.layout.shape()[1];
        let visible = match args.segment_ends {
            Some(ends) => {
                assert_eq!(ends.last(), Some(&nkv));
                (0..nq).map(|i| visible_len(ends, nq, i)).collect()
            }
            None => vec![nkv; nq],
        };
        let heads = |t: In<'_>, n: usize| {
            assert_eq!(t.layout.shape(), [b, n, h, e]);
            assert!(e <= 1 || t.layout.strides()[3] == 1, "{:?} has last stride 1", t.layout);
            gather(t)
        };
        let (q, k, v) = (heads(args.q, nq), heads(args.k, nkv), heads(args.v, nkv));
        let dropout = args.dropout.map(|mask| {
            let words = gather_contiguous(mask.kept, &[b, h, nq, nkv.div_ceil(32)]);
            (words.into_iter().map(|word| word as i32 as u32).collect(), f64::from(mask.scale))
        });
        Self { dims: [b, nq, nkv, h, e], q, k, v, visible, scale: args.scale, dropout }
    }

    /// Calls `f` with image, head and query.
    fn for_each_row(&self, mut f: impl FnMut([usize; 3])) {
        let [b, nq, _, h, _] = self.dims;
        for row in 0..b * h * nq {
            f([row / (h * nq), row / nq % h, row % nq]);
        }
    }

    /// Position of a query's vector in q and y.
    fn query_at(&self, [b, h, i]: [usize; 3]) -> usize {
        let [_, nq, _, heads, e] = self.dims;
        ((b * nq + i) * heads + h) * e
    }

    /// Position of a key's vector in k and v.
    fn key_at(&self, [b, h, _]: [usize; 3], j: usize) -> usize {
        let [_, _, nkv, heads, e] = self.dims;
        ((b * nkv + j) * heads + h) * e
    }

    /// Log-sum-exp of a row's scores, and its probabilities before dropout.
    fn softmax(&self, row: [usize; 3]) -> (f64, Vec<f64>) {
        let q = &self.q[self.query_at(row)..][..self.dims[4]];
        let score = |j| self.scale * dot(q, &self.k[self.key_at(row, j)..]);
        let scores: Vec<f64> = (0..self.visible[row[2]]).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if scores.is_empty() {
            return (max, scores);
        }
        let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        (lse, scores.iter().map(|s| (s - lse).exp()).collect())
    }

    /// Dropout factor of a probability.
    fn factor(&self, [b, h, i]: [usize; 3], j: usize) -> f64 {
        let Some((words, scale)) = &self.dropout else { return 1.0 };
        let [_, nq, nkv, heads, _] = self.dims;
        let word = words[((b * heads + h) * nq + i) * nkv.div_ceil(32) + j / 32];
        f64::from(word >> (j % 32) & 1) * scale
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// out ← out + by · x.
fn add(out: &mut [f64], by: f64, x: &[f64]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += by * x;
    }
}

pub(super) fn dropout_mask(dropout: Dropout, nkv: usize, out: Out<'_>) {
    let (shape, words) = (out.layout.shape().to_vec(), nkv.div_ceil(32));
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let word = |i: usize| {
        let (row, first) = (i / words, i % words * 32);
        let keys = first..nkv.min(first + 32);
        let bit = |j: usize| u32::from(kept(Some(dropout), row * nkv + j, rows * nkv) > 0.0) << (j % 32);
        f64::from(keys.map(bit).sum::<u32>() as i32)
    };
    scatter_contiguous(out, &[&shape[..shape.len() - 1], &[words]].concat(), (0..rows * words).map(word));
}

pub(super) fn forward(args: AttentionArgs<'_, Reference>, y: Out<'_>, lse: Option<Out<'_>>) {
    let inputs = Inputs::new(args);
    let [b, nq, _, h, e] = inputs.dims;
    let (mut out, mut sums) = (vec![0.0; b * nq * h * e], Vec::new());
    inputs.for_each_row(|row| {
        let (sum, p) = inputs.softmax(row);
        sums.push(sum);
        let y = &mut out[inputs.query_at(row)..][..e];
        for (j, p) in p.iter().enumerate() {
            add(y, p * inputs.factor(row, j), &inputs.v[inputs.key_at(row, j)..]);
        }
    });
    scatter_contiguous(y, &[b, nq, h, e], out);
    if let Some(lse) = lse {
        scatter_contiguous(lse, &[b, h, nq], sums);
    }
}

/// Recomputes the softmax instead of reading `y` and `lse`, so that the reference depends on as little as possible.
pub(super) fn backward(
    args: AttentionArgs<'_, Reference>,
    y: In<'_>,
    lse: In<'_>,
    dy: In<'_>,
    grads: AttentionGrads<'_, Reference>,
) {
    let inputs = Inputs::new(args);
    let [b, nq, nkv, h, e] = inputs.dims;
    gather_contiguous(y, &[b, nq, h, e]);
    gather_contiguous(lse, &[b, h, nq]);
    let dy = gather_contiguous(dy, &[b, nq, h, e]);
    let mut dq = vec![0.0; inputs.q.len()];
    let (mut dk, mut dv) = (vec![0.0; inputs.k.len()], vec![0.0; inputs.v.len()]);
    inputs.for_each_row(|row| {
        let (_, p) = inputs.softmax(row);
        let at = inputs.query_at(row);
        let (q, dy) = (&inputs.q[at..][..e], &dy[at..][..e]);
        let dp: Vec<f64> = (0..p.len())
            .map(|j| inputs.factor(row, j) * dot(dy, &inputs.v[inputs.key_at(row, j)..]))
            .collect();
        let mean = dot(&p, &dp);
        for (j, &p) in p.iter().enumerate() {
            let key = inputs.key_at(row, j);
            let ds = inputs.scale * p * (dp[j] - mean);
            add(&mut dq[at..][..e], ds, &inputs.k[key..]);
            add(&mut dk[key..][..e], ds, q);
            add(&mut dv[key..][..e], p * inputs.factor(row, j), dy);
        }
    });
    match grads {
        AttentionGrads::Separate { dq: to_q, dk: to_k, dv: to_v } => {
            [(to_q, dq), (to_k, dk), (to_v, dv)].into_iter().for_each(|(out, values)| scatter(out, values));
        }
        AttentionGrads::Joint(joint) => {
            for (layout, values) in qkv_layouts(joint.layout).iter().zip([dq, dk, dv]) {
                scatter(Out { buffer: &mut *joint.buffer, layout, dtype: joint.dtype }, values);
            }
        }
    }
    debug_assert_eq!(inputs.k.len(), b * nkv * h * e);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::rng::{Dropout, Purpose, StreamKey};
    use crate::tensor::Attention;

    #[test]
    fn single_key_returns_its_value() {
        let (q, k) = (tensor(&[1, 1, 1, 2], &[0.3, -2.0]), tensor(&[1, 1, 1, 2], &[1.5, 0.25]));
        let v = tensor(&[1, 1, 1, 2], &[7.0, 8.0]);
        let (y, saved) = q.attention(&k, &v, &Attention::default(), true).unwrap();
        assert_close(&y, &[7.0, 8.0]);
        assert_close(&saved.unwrap().lse, &[(0.3 * 1.5 - 2.0 * 0.25) / 2f64.sqrt()]);
        let nothing = k.narrow(1, 0, 0).unwrap();
        let (y, _) = q.attention(&nothing, &nothing, &Attention::default(), false).unwrap();
        assert_close(&y, &[0.0, 0.0]);
    }

    /// Two keys with scores 0 and ln 3, and so with probabilities ¼ and ¾.
    #[test]
    fn two_keys_match_hand_computed_values() {
        let ln3 = 3f64.ln();
        let (q, k) = (tensor(&[1, 1, 1, 1], &[1.0]), tensor(&[1, 2, 1, 1], &[0.0, ln3]));
        let (v, dy) = (tensor(&[1, 2, 1, 1], &[4.0, 8.0]), tensor(&[1, 1, 1, 1], &[2.0]));
        let plain = Attention::default();
        let (y, saved) = q.attention(&k, &v, &plain, true).unwrap();
        let saved = saved.unwrap();
        assert_close(&y, &[7.0]);
        assert_close(&saved.lse, &[4f64.ln()]);
        let [dq, dk, dv] = q.attention_backward(&k, &v, &plain, &y, &saved, &dy).unwrap();
        // dp = (8, 16), mean 14, ds = (¼·−6, ¾·2).
        assert_close(&dq, &[1.5 * ln3]);
        assert_close(&dk, &[-1.5, 1.5]);
        assert_close(&dv, &[0.5, 1.5]);

        let dropout = Dropout { rate: 0.5, key: StreamKey::new(1, Purpose::Dropout, 0, 0), samples: 1 };
        let how = Attention { dropout: Some(dropout), ..plain };
        let mask = [0, 1].map(|e| f64::from(dropout.factor(e, 2)));
        let (y, _) = q.attention(&k, &v, &how, false).unwrap();
        assert_close(&y, &[mask[0] + 6.0 * mask[1]]);
    }

    #[test]
    fn block_causal_mask_hides_later_segments() {
        let (q, k) = (tensor(&[1, 2, 1, 1], &[0.0; 2]), tensor(&[1, 4, 1, 1], &[0.0; 4]));
        let v = tensor(&[1, 4, 1, 1], &[1.0, 2.0, 4.0, 8.0]);
        // The queries are at key positions 2 and 3, in the segments 1..3 and 3..4.
        let how = Attention { segment_ends: Some(vec![1, 3, 4]), dropout: None };
        let (y, _) = q.attention(&k, &v, &how, false).unwrap();
        assert_close(&y, &[7.0 / 3.0, 15.0 / 4.0]);
    }
}
