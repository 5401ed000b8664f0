//! Gradients of attention: the probabilities are recomputed from the log-sum-exp of their rows.
//!
//! With P the probabilities, M the dropout factors and D_i = Σ dy_i·y_i:
//! dv = (P∘M)ᵀ dy, dS = P∘(M∘(dy vᵀ) − D), dq = scale·dS k, dk = scale·dSᵀ q.
//! A task computes a whole head, so that dk and dv are summed in one order.

use transdiff_core::backend::{AttentionArgs, AttentionGrads, View, qkv_layouts};
use transdiff_core::{Layout, Result};

use crate::attention::{Heads, KEYS, Problem, QUERIES, pad, split, transpose};
use crate::buffer::{Buffer, Stored};
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::Real;
use crate::row_sums::sum2;
use crate::scratch::Scratch;
use crate::small_gemm::{ALIGNMENT, Product};
use crate::view::{Float, input};

/// A gradient to be written, of any strides.
struct Target<'a, T> {
    data: DisjointSlice<'a, T>,
    offset: usize,
    strides: [usize; 3],
}

impl<'a, T: Stored> Target<'a, T> {
    fn new(buffer: &'a mut Buffer, layout: &Layout) -> Self {
        Self::in_slice(DisjointSlice::new(T::slice_mut(buffer)), layout)
    }

    fn in_slice(data: DisjointSlice<'a, T>, layout: &Layout) -> Self {
        let s = layout.strides();
        Self { data, offset: layout.offset(), strides: [s[0], s[1], s[2]] }
    }

    /// dq, dk and dv.
    fn all(grads: AttentionGrads<'a, Cpu>) -> [Self; 3] {
        match grads {
            AttentionGrads::Separate { dq, dk, dv } => {
                [dq, dk, dv].map(|view| Self::new(view.buffer, view.layout))
            }
            AttentionGrads::Joint(joint) => {
                let data = DisjointSlice::new(T::slice_mut(joint.buffer));
                qkv_layouts(joint.layout).map(|layout| Self::in_slice(data, &layout))
            }
        }
    }
}

/// Scratch of a task.
struct Tiles<'s, T> {
    /// (E, keys), times the scale.
    keys_t: &'s mut [T],
    /// (E, keys).
    values_t: &'s mut [T],
    /// (keys, padded E).
    keys: &'s mut [T],
    /// (QUERIES, padded E), of one tile of queries.
    queries: &'s mut [T],
    dy: &'s mut [T],
    /// (QUERIES, keys).
    probabilities: &'s mut [T],
    slopes: &'s mut [T],
    /// (QUERIES, keys), with dropout.
    mask: &'s mut [T],
    /// (keys, padded E).
    dk: &'s mut [T],
    dv: &'s mut [T],
    /// (Nq, padded E).
    dq: &'s mut [T],
    /// D of each query.
    weights: &'s mut [T],
}

impl<'s, R: Real> Tiles<'s, R> {
    fn lengths<T: Float<Real = R>>(p: &Problem<'_, T>) -> [usize; 12] {
        let (e, keys) = (p.padded(), KEYS.min(p.nkv.next_multiple_of(ALIGNMENT)));
        let (queries, square) = (QUERIES * e, QUERIES * keys);
        let mask = if p.dropout.is_some() { square } else { 0 };
        [
            e * keys,
            e * keys,
            keys * e,
            queries,
            queries,
            square,
            square,
            mask,
            keys * e,
            keys * e,
            p.nq * e,
            p.nq,
        ]
    }

    fn new<T: Float<Real = R>>(p: &Problem<'_, T>, scratch: &'s mut [R]) -> Self {
        let parts = split(scratch, Self::lengths(p));
        let [keys_t, values_t, keys, queries, dy, probabilities, slopes, mask, dk, dv, dq, weights] = parts;
        dq.fill(R::ZERO);
        Self { keys_t, values_t, keys, queries, dy, probabilities, slopes, mask, dk, dv, dq, weights }
    }
}

/// Inputs of a task besides the problem.
struct Saved<'a, T: Float> {
    y: Heads<'a, T>,
    dy: Heads<'a, T>,
    lse: &'a [T::Real],
}

simd! {
    /// out[i] ← the product of row i of a and row i of b, of `size` elements.
    fn row_products<T: Float>(a: (&[T], usize), b: (&[T], usize), size: usize, out: &mut [T::Real]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = sum2(&a.0[i * a.1..][..size], &b.0[i * b.1..][..size], |a, b| a.real() * b.real());
        }
    }
}

simd! {
    /// Turns rows of scores into probabilities; those from `visible` on are 0.
    fn recompute<T: Real>(scores: &mut [T], width: usize, visible: &[usize], lse: &[T]) {
        for ((scores, &visible), &lse) in scores.chunks_exact_mut(width).zip(visible).zip(lse) {
            for s in scores[..visible].iter_mut() {
                *s = (*s - lse).exp();
            }
            scores[visible..].fill(T::ZERO);
        }
    }
}

simd! {
    /// Replaces rows of dP by dS and of P by P∘M, given P, dP and M, of which `len` columns are not padding.
    fn slopes<T: Real>(p: &mut [T], dp: &mut [T], [width, len]: [usize; 2], mask: Option<&[T]>, weights: &[T]) {
        let rows = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(weights);
        for (i, ((p, dp), &weight)) in rows.enumerate() {
            slope(&mut p[..len], &mut dp[..len], mask.map(|mask| &mask[i * len..][..len]), weight);
        }
    }
}

#[inline(always)]
fn slope<T: Real>(p: &mut [T], dp: &mut [T], factors: Option<&[T]>, weight: T) {
    let Some(factors) = factors else {
        for (&mut p, dp) in p.iter_mut().zip(dp) {
            *dp = p * (*dp - weight);
        }
        return;
    };
    for ((p, dp), &m) in p.iter_mut().zip(dp).zip(factors) {
        *dp = *p * (*dp * m - weight);
        *p *= m;
    }
}

pub(crate) fn backward<T: Float>(
    cpu: &Cpu,
    args: AttentionArgs<'_, Cpu>,
    y: View<'_, Cpu>,
    lse: View<'_, Cpu>,
    dy: View<'_, Cpu>,
    grads: AttentionGrads<'_, Cpu>,
) -> Result<()> {
    let p = Problem::<T>::new(cpu, &args);
    let saved = Saved { y: Heads::new(&y), dy: Heads::new(&dy), lse: input::<T::Real>(&lse) };
    let [dq, dk, dv] = Target::<T>::all(grads);
    cpu.run(p.images * p.heads, p.cost(5), |task| {
        let place = [task / p.heads, task % p.heads];
        T::Real::with_scratch(Tiles::lengths(&p).iter().sum(), |scratch| {
            let mut tiles = Tiles::new(&p, scratch);
            if p.nq > 0 {
                let [y, dy] = [saved.y, saved.dy].map(|rows| (rows.from(place[0], place[1], 0), rows.row));
                row_products(y, dy, p.size, tiles.weights);
            }
            for key in (0..p.nkv).step_by(KEYS) {
                let len = KEYS.min(p.nkv - key);
                against_keys(&p, &saved, place, [key, len], &mut tiles);
                write(&p, &dk, place, [key, len], tiles.dk, p.scale);
                write(&p, &dv, place, [key, len], tiles.dv, T::Real::ONE);
            }
            write(&p, &dq, place, [0, p.nq], tiles.dq, p.scale);
        });
    });
    Ok(())
}

/// Computes dk and dv of a tile of keys, and adds its part to dq.
fn against_keys<T: Float>(
    p: &Problem<'_, T>,
    saved: &Saved<'_, T>,
    place @ [image, head]: [usize; 2],
    [key, len]: [usize; 2],
    tiles: &mut Tiles<'_, T::Real>,
) {
    let width = len.next_multiple_of(ALIGNMENT);
    let (k, v) = (p.k.from(image, head, key), p.v.from(image, head, key));
    transpose(k, p.k.row, [len, p.size, width], p.scale, tiles.keys_t);
    transpose(v, p.v.row, [len, p.size, width], T::Real::ONE, tiles.values_t);
    pad(k, p.k.row, [len, p.size, p.padded()], tiles.keys);
    tiles.dk.fill(T::Real::ZERO);
    tiles.dv.fill(T::Real::ZERO);
    for first in (0..p.nq).step_by(QUERIES) {
        let rows = QUERIES.min(p.nq - first);
        let masked = p.fully_masked(first, rows, key);
        if masked < rows {
            tile(p, saved, place, [first + masked, rows - masked], [key, len], tiles);
        }
    }
}

/// Adds the parts of a tile, `rows` queries against `len` keys, to dq, dk and dv.
fn tile<T: Float>(
    p: &Problem<'_, T>,
    saved: &Saved<'_, T>,
    [image, head]: [usize; 2],
    [first, rows]: [usize; 2],
    [key, len]: [usize; 2],
    t: &mut Tiles<'_, T::Real>,
) {
    let (width, e) = (len.next_multiple_of(ALIGNMENT), p.padded());
    pad(p.q.from(image, head, first), p.q.row, [rows, p.size, e], t.queries);
    pad(saved.dy.from(image, head, first), saved.dy.row, [rows, p.size, e], t.dy);
    let against = |a, b| Product {
        size: [rows, p.size, width],
        a,
        a_strides: [e, 1],
        b,
        b_stride: width,
        c_stride: width,
        accumulate: false,
    };
    against(&*t.queries, &*t.keys_t).compute(t.probabilities);
    against(&*t.dy, &*t.values_t).compute(t.slopes);
    p.dropout_factors([image, head, first], rows, [key, len], t.mask);
    let mut visible = [0; QUERIES];
    for (i, visible) in visible.iter_mut().enumerate().take(rows) {
        *visible = (p.visible_len(first + i) - key).min(len);
    }
    let lse = &saved.lse[(image * p.heads + head) * p.nq + first..][..rows];
    recompute(t.probabilities, width, &visible[..rows], lse);
    let mask = p.dropout.is_some().then_some(&*t.mask);
    slopes(t.probabilities, t.slopes, [width, len], mask, &t.weights[first..][..rows]);
    let over_queries = |a, b| Product {
        size: [len, rows, e],
        a,
        a_strides: [1, width],
        b,
        b_stride: e,
        c_stride: e,
        accumulate: true,
    };
    over_queries(&*t.probabilities, &*t.dy).compute(t.dv);
    over_queries(&*t.slopes, &*t.queries).compute(t.dk);
    let dq = Product {
        size: [rows, len, e],
        a: t.slopes,
        a_strides: [width, 1],
        b: t.keys,
        b_stride: e,
        c_stride: e,
        accumulate: true,
    };
    dq.compute(&mut t.dq[first * e..]);
}

/// Rows `first..first + rows` of one head of a gradient ← factor · values.
fn write<T: Float>(
    p: &Problem<'_, T>,
    target: &Target<'_, T>,
    [image, head]: [usize; 2],
    [first, rows]: [usize; 2],
    values: &[T::Real],
    factor: T::Real,
) {
    let [by_image, by_row, by_head] = target.strides;
    for (i, values) in values.chunks_exact(p.padded().max(1)).take(rows).enumerate() {
        let at = target.offset + image * by_image + (first + i) * by_row + head * by_head;
        // SAFETY: rows of one head belong to one task, and rows of the gradients do not overlap.
        let out = unsafe { target.data.part(at, p.size) };
        for (out, &x) in out.iter_mut().zip(values) {
            *out = T::rounded(x * factor);
        }
    }
}
