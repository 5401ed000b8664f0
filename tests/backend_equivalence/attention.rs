//! Multi-head attention.

use transdiff_core::tensor::{Attention, SavedAttention};
use transdiff_core::{Backend, DType, Result, Tensor};

use crate::harness::{Case, Input, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("attention", 90, attention);
    suite.cases("steep attention", 10, steep);
    suite.cases("attention masks", 5, masks);
    suite.cases("bits of dropout masks", 20, bits);
    suite.cases("attention around the kernels' widths", 6, widths);
    suite.cases("attention of wide heads", 12, wide);
}

/// Head sizes that kernels are specialised for, and those that are padded to them.
fn widths<B: Backend>(case: &mut Case<'_, B>) {
    for e in [32, 65, 80, 81, 100, 128] {
        let [b, h, n, nkv] =
            [case.pick(&[1, 2]), case.pick(&[1, 2]), case.pick(&[1, 5, 17]), case.pick(&[17, 33])];
        let how = Attention {
            segment_ends: case.one_in(2).then(|| vec![nkv - 6, nkv]),
            dropout: case.one_in(3).then(|| case.dropout(b)),
        };
        case.note(&how);
        checked(case, [b, h, e, n, nkv], &how);
    }
}

/// Heads as wide as the autoencoder's, forward only.
fn wide<B: Backend>(case: &mut Case<'_, B>) {
    let [b, h, e] = [case.pick(&[1, 2]), case.pick(&[1, 1, 2]), case.pick(&[129, 160, 512])];
    let [nq, nkv] = [(); 2].map(|()| case.pick(&[0, 1, 5, 16, 33]));
    let q = case.distinct(&[b, nq, h, e], |z| z);
    let images = if case.one_in(4) { 1 } else { b };
    let [k, v] = [(); 2].map(|()| case.distinct(&[images, nkv, h, e], |z| z));
    let how = &Attention::default();
    check!(case, "attention", [q, k, v] => with_lse(q.attention(k, v, how, false)));
}

type Outputs<B> = (Tensor<B>, Option<Tensor<B>>);

fn with_lse<B: Backend>(result: Result<(Tensor<B>, Option<SavedAttention<B>>)>) -> Result<Outputs<B>> {
    result.map(|(y, saved)| (y, saved.map(|saved| saved.lse)))
}

/// [B, H, E, Nq, Nkv] and a mask.
fn setting<B: Backend>(case: &mut Case<'_, B>) -> ([usize; 5], Attention) {
    let [b, h, e] = [case.pick(&[1, 1, 2, 3]), case.pick(&[1, 2, 3]), case.pick(&[1, 3, 8, 24, 64])];
    let sizes = [1, 2, 5, 16, 33, 65, 150];
    let (mut nq, mut nkv) = (case.pick(&sizes), case.pick(&sizes));
    let mut how = Attention { segment_ends: None, dropout: case.one_in(3).then(|| case.dropout(b)) };
    if case.one_in(2) {
        (nq, nkv) = (nq.min(nkv), nq.max(nkv));
        let every = 1 + case.below(nkv);
        let mut ends: Vec<usize> = (1..nkv).filter(|_| case.one_in(every)).collect();
        ends.push(nkv);
        how.segment_ends = Some(ends);
    } else if case.one_in(8) {
        (nq, nkv) = case.pick(&[(0, 3), (3, 0), (0, 0)]);
    }
    case.note(&how);
    ([b, h, e, nq, nkv], how)
}

fn attention<B: Backend>(case: &mut Case<'_, B>) {
    let (sizes, how) = setting(case);
    checked(case, sizes, &how);
}

/// Forward, with and without the saved log-sum-exp, and backward.
fn checked<B: Backend>(case: &mut Case<'_, B>, [b, h, e, nq, nkv]: [usize; 5], how: &Attention) {
    let q = case.distinct(&[b, nq, h, e], |z| z);
    // Keys and values of one image may serve all images of queries.
    let images = if case.one_in(4) { 1 } else { b };
    let [k, v] = [(); 2].map(|()| case.distinct(&[images, nkv, h, e], |z| z));
    check!(case, "attention", [q, k, v] => with_lse(q.attention(k, v, how, true)));
    check!(case, "attention", [q, k, v] => with_lse(q.attention(k, v, how, false)));
    backward(case, [&q, &k, &v], how);
}

fn backward<B: Backend>(case: &mut Case<'_, B>, [q, k, v]: [&Input<B>; 3], how: &Attention) {
    let (y, forward) = q.reference.attention(&k.reference, &v.reference, how, true).unwrap();
    let (y, lse) = (case.result(&y), case.saved(&forward.unwrap().lse));
    let dy = case.distinct(q.ours.shape(), |z| z);
    check!(case, "attention_backward", [q, k, v, y, lse, dy] =>
        saved([q, k], how, lse)
            .and_then(|saved| q.attention_backward(k, v, how, y, &saved, dy))
            .map(Vec::from));
    if q.ours.shape() == k.ours.shape() {
        check!(case, "attention_backward", [q, k, v, y, lse, dy] =>
            saved([q, k], how, lse).and_then(|saved| q.self_attention_backward(k, v, how, y, &saved, dy)));
    }
}

/// Tensors that the forward pass saves, given the log-sum-exp. The mask has another order in memory.
fn saved<B: Backend>([q, k]: [&Tensor<B>; 2], how: &Attention, lse: &Tensor<B>) -> Result<SavedAttention<B>> {
    let by_heads = |kept: Tensor<B>| kept.permute(&[1, 0, 2, 3])?.contiguous()?.permute(&[1, 0, 2, 3]);
    let kept = how.dropout.map(|dropout| q.dropout_mask(dropout, k.dim(1)).and_then(by_heads)).transpose()?;
    Ok(SavedAttention { lse: lse.clone(), kept })
}

/// Scores in the hundreds, whose exponentials overflow.
fn steep<B: Backend>(case: &mut Case<'_, B>) {
    let ([b, h, e, nq, nkv], how) = setting(case);
    let (q, k) = (case.input(&[b, nq, h, e], |z| 20.0 * z), case.input(&[b, nkv, h, e], |z| 20.0 * z));
    let (v, how) = (case.normal(&[b, nkv, h, e]), &how);
    check!(case, "attention, scores in the hundreds", [q, k, v] => with_lse(q.attention(k, v, how, true)));
}

/// Masks of rows of all lengths, of several samples, bit by bit.
fn bits<B: Backend>(case: &mut Case<'_, B>) {
    let [samples, images] = [case.pick(&[1, 2, 3]), case.pick(&[1, 2])];
    let [h, n, nkv] =
        [case.pick(&[1, 3]), case.pick(&[0, 1, 5, 70]), case.pick(&[0, 1, 31, 32, 33, 64, 131])];
    let q = case.normal(&[samples * images, n, h, 1]).ours;
    let dropout = case.dropout(samples);
    let kept = q.dropout_mask(dropout, nkv).unwrap();
    assert_eq!(kept.dtype(), DType::I32);
    let words = kept.to_f64().unwrap();
    let rows = q.numel();
    let word = |i: usize| {
        let (row, first) = (i / nkv.div_ceil(32), i % nkv.div_ceil(32) * 32);
        let is_kept = |j: usize| dropout.factor(row * nkv + j, rows * nkv) != 0.0;
        let keys = first..nkv.min(first + 32);
        f64::from(keys.map(|j| u32::from(is_kept(j)) << (j - first)).sum::<u32>() as i32)
    };
    assert_eq!(words, (0..rows * nkv.div_ceil(32)).map(word).collect::<Vec<_>>());
}

/// With equal scores and the identity matrix as values, the output is the dropout mask.
fn masks<B: Backend>(case: &mut Case<'_, B>) {
    let [b, h, n] = [2, 2, case.pick(&[7, 64])];
    let (q, dropout) = (case.input(&[b, n, h, n], |_| 0.0), case.dropout(b));
    let unit = |i: usize| f64::from(u8::from(i / (h * n) == i % n));
    let v = case.given(&[1, n, h, n], (0..n * h * n).map(unit).collect());
    let how = Attention { segment_ends: None, dropout: Some(dropout) };
    let (y, _) = q.ours.attention(&q.ours, &v.ours, &how, false).unwrap();
    let y = y.permute(&[0, 2, 1, 3]).unwrap().to_f64().unwrap();
    let is_dropped = |i| dropout.factor(i, y.len()) == 0.0;
    assert!(y.iter().enumerate().all(|(i, &y)| (y == 0.0) == is_dropped(i)));
}
