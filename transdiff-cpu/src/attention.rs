//! Attention by tiles of keys with an online softmax (FlashAttention-style).
//!
//! Tiles begin at multiples of [`KEYS`] in every call, and the sums of a query run over them in order, so that its
//! result does not depend on the other queries of its tile.

use transdiff_core::Result;
use transdiff_core::backend::{AttentionArgs, View, ViewMut, visible_len};

use crate::buffer::Stored;
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::{Element, Real};
use crate::row_sums::fold;
use crate::scratch::Scratch;
use crate::small_gemm::{ALIGNMENT, Product};
use crate::view::{Float, input, output};

/// Number of keys per tile, whole words of a dropout mask.
pub(crate) const KEYS: usize = 128;
/// Number of queries whose scores against a tile are held at a time.
pub(crate) const QUERIES: usize = 32;
/// Largest number of queries per task: they share the transposed keys.
const MAX_TASK_QUERIES: usize = 512;
/// Number of tasks per thread from which more are of no use.
const TASKS: usize = 4;

/// One of q, k, v and their gradients: element (b, i, h, e) is at `b·image + i·row + h·head + e`.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a, T> {
    data: &'a [T],
    image: usize,
    pub(crate) row: usize,
    head: usize,
}

impl<'a, T: Stored> Heads<'a, T> {
    pub(crate) fn new(view: &View<'a, Cpu>) -> Self {
        let s = view.layout.strides();
        let data = &T::slice(view.buffer)[view.layout.offset()..];
        Self { data, image: s[0], row: s[1], head: s[2] }
    }

    /// The elements from row `i` of one head on.
    pub(crate) fn from(&self, image: usize, head: usize, i: usize) -> &'a [T] {
        &self.data[image * self.image + head * self.head + i * self.row..]
    }
}

/// A drawn dropout of the probabilities.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a, R> {
    /// Bits of the kept probabilities, of which a query has `per_row` words.
    words: &'a [i32],
    per_row: usize,
    scale: R,
}

/// Arguments of a call, shared by its tasks.
pub(crate) struct Problem<'a, T: Float> {
    pub(crate) q: Heads<'a, T>,
    pub(crate) k: Heads<'a, T>,
    pub(crate) v: Heads<'a, T>,
    pub(crate) images: usize,
    pub(crate) heads: usize,
    pub(crate) nq: usize,
    pub(crate) nkv: usize,
    pub(crate) size: usize,
    pub(crate) scale: T::Real,
    /// Number of queries per task of the forward pass, a multiple of [`QUERIES`] or all.
    task_queries: usize,
    segment_ends: Option<&'a [usize]>,
    pub(crate) dropout: Option<Kept<'a, T::Real>>,
}

/// Number of queries per task, so that there are enough tasks for all threads.
fn task_queries(cpu: &Cpu, heads: usize, nq: usize) -> usize {
    let per_head = (TASKS * cpu.threads()).div_ceil(heads.max(1));
    nq.div_ceil(per_head).next_multiple_of(QUERIES).min(MAX_TASK_QUERIES).min(nq)
}

impl<'a, T: Float> Problem<'a, T> {
    pub(crate) fn new(cpu: &Cpu, args: &AttentionArgs<'a, Cpu>) -> Self {
        let &[images, nq, heads, size] = args.q.layout.shape() else { unreachable!("core checks the rank") };
        Self {
            q: Heads::new(&args.q),
            k: Heads::new(&args.k),
            v: Heads::new(&args.v),
            images,
            heads,
            nq,
            nkv: args.k.layout.shape()[1],
            size,
            scale: T::Real::of(args.scale),
            task_queries: task_queries(cpu, images * heads, nq),
            segment_ends: args.segment_ends,
            dropout: args.dropout.map(|mask| Kept {
                words: input::<i32>(&mask.kept),
                per_row: args.k.layout.shape()[1].div_ceil(32),
                scale: T::Real::of(f64::from(mask.scale)),
            }),
        }
    }

    /// The head size, padded to the alignment of products.
    pub(crate) fn padded(&self) -> usize {
        self.size.max(1).next_multiple_of(ALIGNMENT)
    }

    /// Visible length: number of leading keys that query `i` attends to.
    pub(crate) fn visible_len(&self, i: usize) -> usize {
        self.segment_ends.map_or(self.nkv, |ends| visible_len(ends, self.nq, i))
    }

    /// Number of the `rows` queries from `first` on that are fully masked from `key` on: the first ones, as visible
    /// lengths ascend.
    pub(crate) fn fully_masked(&self, first: usize, rows: usize, key: usize) -> usize {
        (0..rows).position(|i| self.visible_len(first + i) > key).unwrap_or(rows)
    }

    /// Estimated nanoseconds of `products` products of the size of q kᵀ.
    pub(crate) fn cost(&self, products: usize) -> usize {
        self.images * self.heads * self.nq * self.nkv * (self.size + 8) * products / 20
    }

    /// factors[i, j] ← the dropout factor of query `first + i` and key `key + j`, for `rows` queries and `len` keys, if there is
    /// a dropout.
    pub(crate) fn dropout_factors(
        &self,
        [image, head, first]: [usize; 3],
        rows: usize,
        [key, len]: [usize; 2],
        factors: &mut [T::Real],
    ) {
        let Some(Kept { words, per_row, scale }) = self.dropout else { return };
        let row = (image * self.heads + head) * self.nq + first;
        for (i, factors) in factors[..rows * len].chunks_exact_mut(len).enumerate() {
            expand_bits(&words[(row + i) * per_row + key / 32..], scale, factors);
        }
    }
}

simd! {
    /// factors[j] ← `scale` where bit j of `words` is set, and 0 elsewhere.
    fn expand_bits<R: Real>(words: &[i32], scale: R, factors: &mut [R]) {
        for (factors, &word) in factors.chunks_mut(32).zip(words) {
            for (bit, factor) in factors.iter_mut().enumerate() {
                *factor = if word >> bit & 1 != 0 { scale } else { R::ZERO };
            }
        }
    }
}

simd! {
    /// out[e, j] ← factor · rows[j, e], for `len` rows of `size`; columns up to `width` become 0.
    pub(crate) fn transpose<T: Float>(
        rows: &[T], stride: usize, [len, size, width]: [usize; 3], factor: T::Real, out: &mut [T::Real],
    ) {
        for j in (0..len).step_by(ALIGNMENT) {
            let count = ALIGNMENT.min(len - j);
            for e in (0..size).step_by(ALIGNMENT) {
                let depth = ALIGNMENT.min(size - e);
                let mut corner = [[T::Real::ZERO; ALIGNMENT]; ALIGNMENT];
                for (jj, line) in corner.iter_mut().enumerate().take(count) {
                    let from = &rows[(j + jj) * stride + e..][..depth];
                    for (to, &x) in line.iter_mut().zip(from) {
                        *to = x.real() * factor;
                    }
                }
                for ee in 0..depth {
                    let to = &mut out[(e + ee) * width + j..][..ALIGNMENT];
                    for (to, line) in to.iter_mut().zip(&corner) {
                        *to = line[ee];
                    }
                }
            }
        }
    }
}

simd! {
    /// out[j, ..size] ← rows[j], padded with zeros to `width`.
    pub(crate) fn pad<T: Float>(rows: &[T], stride: usize, [len, size, width]: [usize; 3], out: &mut [T::Real]) {
        // Column by column of vectors: row by row it would become calls of memcpy, which take longer than such a row.
        for e in (0..width).step_by(ALIGNMENT) {
            let count = ALIGNMENT.min(size.saturating_sub(e));
            for (j, out) in out.chunks_exact_mut(width).take(len).enumerate() {
                let out = &mut out[e..][..ALIGNMENT];
                if count == ALIGNMENT {
                    let from = &rows[j * stride + e..][..ALIGNMENT];
                    out.iter_mut().zip(from).for_each(|(out, &x)| *out = x.real());
                } else {
                    out.fill(T::Real::ZERO);
                    (0..count).for_each(|i| out[i] = rows[j * stride + e + i].real());
                }
            }
        }
    }
}

/// Online softmax of the queries of a tile over the keys so far: the row max and Σ exp(score − row max).
struct OnlineSoftmax<'s, T> {
    maxima: &'s mut [T],
    sums: &'s mut [T],
}

/// The maximum of a row of scores, after those from `visible` on are overwritten with the lowest number.
#[inline(always)]
fn row_max<T: Real>(scores: &mut [T], visible: usize) -> T {
    scores[visible..].fill(T::LOWEST);
    let mut maxima = [T::LOWEST; ALIGNMENT];
    for lane in scores.chunks_exact(ALIGNMENT) {
        for (max, &s) in maxima.iter_mut().zip(lane) {
            *max = max.larger(s);
        }
    }
    maxima.into_iter().reduce(T::larger).expect("there are several lanes")
}

simd! {
    /// Turns rows of scores into exp(score − row max), rescales the sums so far to the new row max, and writes to
    /// `factors` the factors that rescale other sums. Pass by pass, since a single row is all latency.
    fn online_softmax<T: Real>(
        scores: &mut [T], width: usize, visible: &[usize], row: OnlineSoftmax<'_, T>, factors: &mut [T],
    ) {
        for ((scores, &visible), (factor, &max)) in
            scores.chunks_exact_mut(width).zip(visible).zip(factors.iter_mut().zip(&*row.maxima))
        {
            *factor = row_max(scores, visible).larger(max);
        }
        for (factor, max) in factors.iter_mut().zip(row.maxima.iter_mut()) {
            let new = *factor;
            *factor = (*max - new).exp();
            *max = new;
        }
        for (scores, &max) in scores.chunks_exact_mut(width).zip(&*row.maxima) {
            // Two vectors at a time where there are, for the widest registers.
            let (pairs, rest) = scores.as_chunks_mut::<{ 2 * ALIGNMENT }>();
            for lanes in pairs {
                for s in lanes {
                    *s = (*s - max).exp();
                }
            }
            for lanes in rest.as_chunks_mut::<ALIGNMENT>().0 {
                for s in lanes {
                    *s = (*s - max).exp();
                }
            }
        }
        for ((scores, sum), &factor) in scores.chunks_exact(width).zip(row.sums).zip(&*factors) {
            let mut lanes = [T::ZERO; ALIGNMENT];
            for lane in scores.chunks_exact(ALIGNMENT) {
                for (sum, &s) in lanes.iter_mut().zip(lane) {
                    *sum += s;
                }
            }
            *sum = sum.fma(factor, fold(lanes));
        }
    }
}

simd! {
    fn scale_rows<T: Real>(rows: &mut [T], width: usize, factors: &[T]) {
        for (row, &factor) in rows.chunks_exact_mut(width).zip(factors) {
            for x in row {
                *x *= factor;
            }
        }
    }
}

simd! {
    fn multiply_rows<T: Real>(rows: &mut [T], width: usize, mask: &[T], len: usize) {
        for (row, mask) in rows.chunks_exact_mut(width).zip(mask.chunks_exact(len)) {
            for (x, &m) in row.iter_mut().zip(mask) {
                *x *= m;
            }
        }
    }
}

simd! {
    fn divide<T: Float>(total: &[T::Real], sum: T::Real, y: &mut [T]) {
        let over = T::Real::ONE / sum;
        for (y, &t) in y.iter_mut().zip(total) {
            *y = T::rounded(t * over);
        }
    }
}

/// Scratch of a forward task.
struct Tiles<'s, T> {
    /// (queries of a task, padded E).
    queries: &'s mut [T],
    /// (E, keys), times the scale.
    keys: &'s mut [T],
    /// (keys, padded E).
    values: &'s mut [T],
    /// (QUERIES, keys).
    scores: &'s mut [T],
    /// (queries of a task, padded E).
    totals: &'s mut [T],
    /// (QUERIES, keys), with dropout.
    mask: &'s mut [T],
    /// Rescaling factors of the queries of a tile.
    factors: &'s mut [T],
    maxima: &'s mut [T],
    sums: &'s mut [T],
}

impl<'s, R: Real> Tiles<'s, R> {
    fn lengths<T: Float<Real = R>>(p: &Problem<'_, T>) -> [usize; 9] {
        let keys = KEYS.min(p.nkv.next_multiple_of(ALIGNMENT));
        let share = p.task_queries;
        let (queries, values, scores) = (share * p.padded(), keys * p.padded(), QUERIES * keys);
        let mask = if p.dropout.is_some() { scores } else { 0 };
        [queries, values, values, scores, queries, mask, QUERIES, share, share]
    }

    fn new<T: Float<Real = R>>(p: &Problem<'_, T>, scratch: &'s mut [R]) -> Self {
        let [queries, keys, values, scores, totals, mask, factors, maxima, sums] =
            split(scratch, Self::lengths(p));
        maxima.fill(R::LOWEST);
        sums.fill(R::ZERO);
        Self { queries, keys, values, scores, totals, mask, factors, maxima, sums }
    }
}

/// Splits scratch memory into parts of these lengths.
pub(crate) fn split<T, const N: usize>(mut scratch: &mut [T], lengths: [usize; N]) -> [&mut [T]; N] {
    lengths.map(|len| {
        let (part, rest) = std::mem::take(&mut scratch).split_at_mut(len);
        scratch = rest;
        part
    })
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    args: AttentionArgs<'_, Cpu>,
    y: ViewMut<'_, Cpu>,
    lse: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let p = Problem::<T>::new(cpu, &args);
    let y = DisjointSlice::new(output::<T>(y));
    let lse = lse.map(|l| DisjointSlice::new(output::<T::Real>(l)));
    let shares = p.nq.div_ceil(p.task_queries.max(1));
    cpu.run(p.images * p.heads * shares, p.cost(2), |task| {
        let (at, from) = (task / shares, task % shares * p.task_queries);
        let place = [at / p.heads, at % p.heads, from];
        let count = p.task_queries.min(p.nq - from);
        T::Real::with_scratch(Tiles::lengths(&p).iter().sum(), |scratch| {
            let mut tiles = Tiles::new(&p, scratch);
            attend(&p, place, count, &mut tiles);
            finish(&p, place, count, &tiles, y, lse);
        });
    });
    Ok(())
}

/// Computes the sums over the keys for `count` queries from `first` on.
fn attend<T: Float>(
    p: &Problem<'_, T>,
    [image, head, first]: [usize; 3],
    count: usize,
    tiles: &mut Tiles<'_, T::Real>,
) {
    let visible = if count == 0 { 0 } else { p.visible_len(first + count - 1) };
    pad(p.q.from(image, head, first), p.q.row, [count, p.size, p.padded()], tiles.queries);
    for key in (0..visible).step_by(KEYS) {
        let len = KEYS.min(p.nkv - key);
        let width = len.next_multiple_of(ALIGNMENT);
        transpose(p.k.from(image, head, key), p.k.row, [len, p.size, width], p.scale, tiles.keys);
        pad(p.v.from(image, head, key), p.v.row, [len, p.size, p.padded()], tiles.values);
        for from in (0..count).step_by(QUERIES) {
            let rows = QUERIES.min(count - from);
            let masked = p.fully_masked(first + from, rows, key);
            if masked < rows {
                let (from, rows) = (from + masked, rows - masked);
                attend_tile(p, [image, head, first + from], [from, rows], [key, len], tiles);
            }
        }
    }
}

/// Adds a tile to the sums: `rows` queries, of which the first is number `from` of the task, against `len` keys.
fn attend_tile<T: Float>(
    p: &Problem<'_, T>,
    [image, head, first]: [usize; 3],
    [from, rows]: [usize; 2],
    [key, len]: [usize; 2],
    tiles: &mut Tiles<'_, T::Real>,
) {
    let (width, padded) = (len.next_multiple_of(ALIGNMENT), p.padded());
    let scores = Product {
        size: [rows, p.size, width],
        a: &tiles.queries[from * padded..][..rows * padded],
        a_strides: [padded, 1],
        b: tiles.keys,
        b_stride: width,
        c_stride: width,
        accumulate: false,
    };
    scores.compute(tiles.scores);
    let mut visible = [0; QUERIES];
    for (i, visible) in visible[..rows].iter_mut().enumerate() {
        *visible = (p.visible_len(first + i) - key).min(len);
    }
    let (queries, factors) = (from..from + rows, &mut tiles.factors[..rows]);
    let scores = &mut tiles.scores[..rows * width];
    let row = OnlineSoftmax { maxima: &mut tiles.maxima[queries.clone()], sums: &mut tiles.sums[queries] };
    online_softmax(scores, width, &visible[..rows], row, factors);
    let totals = &mut tiles.totals[from * padded..][..rows * padded];
    if key > 0 {
        scale_rows(totals, padded, factors);
    }
    if p.dropout.is_some() {
        p.dropout_factors([image, head, first], rows, [key, len], tiles.mask);
        multiply_rows(scores, width, tiles.mask, len);
    }
    let values = Product {
        size: [rows, len, padded],
        a: scores,
        a_strides: [width, 1],
        b: tiles.values,
        b_stride: padded,
        c_stride: padded,
        // The first tile starts the sums: every query attends to a key in it.
        accumulate: key > 0,
    };
    values.compute(totals);
}

/// Writes y and lse of the queries of a task.
fn finish<T: Float>(
    p: &Problem<'_, T>,
    [image, head, first]: [usize; 3],
    count: usize,
    tiles: &Tiles<'_, T::Real>,
    y: DisjointSlice<'_, T>,
    lse: Option<DisjointSlice<'_, T::Real>>,
) {
    for i in 0..count {
        let at = ((image * p.nq + first + i) * p.heads + head) * p.size;
        // SAFETY: each row of y belongs to one task.
        let y = unsafe { y.part(at, p.size) };
        if p.nkv == 0 {
            y.fill(T::default());
        } else {
            divide(&tiles.totals[i * p.padded()..], tiles.sums[i], y);
        }
    }
    if let Some(lse) = lse {
        // SAFETY: as above.
        let lse = unsafe { lse.part((image * p.heads + head) * p.nq + first, count) };
        for ((lse, &max), &sum) in lse.iter_mut().zip(&*tiles.maxima).zip(&*tiles.sums) {
            *lse = max + sum.ln();
        }
    }
}
