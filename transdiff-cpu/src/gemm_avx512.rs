//! Single-precision matrix products on AVX-512, by one thread: C ← A B, or C ← C + A B.
//!
//! C is computed in tiles of up to 8 rows and 3 vectors of 16 columns, which stay in registers for a whole block of
//! k. A is read where it lies, one element a row and k, so it may have any strides. B is copied into panels of the
//! tile's width, which stay in the second-level cache while all rows pass; with few rows it is read in place.
//!
//! Every element is a sum fused from the left within blocks of [`DEPTH`] k, the blocks added in order: its bits
//! depend on neither the place in C nor the size of C. An element that falls on an edge takes the same steps.

use std::arch::x86_64::{
    __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use crate::element::Real;

const LANES: usize = 16;
/// Vectors of a tile; with 8 rows they make 24 accumulators of the 32 registers.
const VECTORS: usize = 3;
const PANEL: usize = VECTORS * LANES;
/// Values of k in a block: a panel is then at most 384 KiB, less than a second-level cache.
const DEPTH: usize = 2048;
/// From this many rows on, copying B pays.
const PACK_ROWS: usize = 24;

/// Whether the processor can.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// A part of A: where it begins, and the strides of rows and of k.
#[derive(Clone, Copy)]
struct Left {
    start: *const f32,
    row: usize,
    k: usize,
}

/// A panel of B: rows of k at stride `k`, up to three vectors of which the last is cut by `mask`.
#[derive(Clone, Copy)]
struct Panel {
    start: *const f32,
    k: usize,
    depth: usize,
    mask: __mmask16,
}

/// Where a tile of C begins, the stride of its rows, and whether the product is added to what is there.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    row: usize,
    add: bool,
}

/// # Safety
/// The processor has AVX-512F. `a`, `b` and `c` reach `ROWS` rows and the panel's columns.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize, const WIDTH: usize>(a: Left, b: Panel, c: Target) {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let (mut left, mut right) = (a.start, b.start);
    for _ in 0..b.depth {
        let mut columns = [_mm512_setzero_ps(); WIDTH];
        for (j, column) in columns.iter_mut().enumerate() {
            let mask = if j + 1 == WIDTH { b.mask } else { !0 };
            // SAFETY: within the panel; lanes beyond the mask are not read.
            *column = unsafe { _mm512_maskz_loadu_ps(mask, right.add(j * LANES)) };
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: row i of A, as the caller promises.
            let factor = _mm512_set1_ps(unsafe { *left.add(i * a.row) });
            for (sum, &column) in row.iter_mut().zip(&columns) {
                *sum = _mm512_fmadd_ps(factor, column, *sum);
            }
        }
        // After the last k they may point beyond the operands, where nothing is read.
        (left, right) = (left.wrapping_add(a.k), right.wrapping_add(b.k));
    }
    for (i, row) in sums.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            let mask = if j + 1 == WIDTH { b.mask } else { !0 };
            // SAFETY: row i and columns of the tile; lanes beyond the mask are neither read nor written.
            unsafe {
                let place = c.start.add(i * c.row + j * LANES);
                let sum = if c.add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, place), sum) } else { sum };
                _mm512_mask_storeu_ps(place, mask, sum);
            }
        }
    }
}

/// All `m` rows of a panel.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const WIDTH: usize>(m: usize, a: Left, b: Panel, c: Target) {
    let mut i = 0;
    while i < m {
        let a = Left { start: a.start.wrapping_add(i * a.row), ..a };
        let c = Target { start: c.start.wrapping_add(i * c.row), ..c };
        // SAFETY: rows i.. of those that the caller promises, no more than there are.
        i += unsafe {
            match m - i {
                8.. => {
                    tile::<8, WIDTH>(a, b, c);
                    8
                }
                4.. => {
                    tile::<4, WIDTH>(a, b, c);
                    4
                }
                2.. => {
                    tile::<2, WIDTH>(a, b, c);
                    2
                }
                _ => {
                    tile::<1, WIDTH>(a, b, c);
                    1
                }
            }
        };
    }
}

/// Rows of k that are fetched ahead while a panel is packed: each lies on another page, where the processor does not
/// guess it.
const AHEAD: usize = 12;

/// Copies rows of k of a panel, `width` columns each, to a distance of `stride`; `mask` cuts the last vector.
///
/// # Safety
/// The processor has AVX-512F; `b` reaches `depth` rows and `width` columns at its strides; `width` is `stride`
/// less what the mask cuts off.
#[target_feature(enable = "avx512f")]
unsafe fn pack(
    b: *const f32,
    [sk, sn]: [usize; 2],
    [depth, width]: [usize; 2],
    out: &mut [f32],
    (stride, mask): (usize, __mmask16),
) {
    assert!(out.len() >= depth * stride && width <= stride);
    if sn == 1 {
        for (k, row) in out.chunks_exact_mut(stride).take(depth).enumerate() {
            let from = b.wrapping_add(k * sk);
            for j in (0..stride).step_by(LANES) {
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD * sk + j).cast());
                let mask = if j + LANES == stride { mask } else { !0 };
                // SAFETY: row k of B and its columns, as the caller promises; the row of `out` holds whole vectors.
                unsafe {
                    let columns = _mm512_maskz_loadu_ps(mask, from.add(j));
                    _mm512_mask_storeu_ps(row.as_mut_ptr().add(j), !0, columns);
                }
            }
        }
        return;
    }
    // Squares of one cache line: reading down a column and writing along a row both stay within few lines.
    for k0 in (0..depth).step_by(LANES) {
        for j0 in (0..width).step_by(LANES) {
            for k in k0..depth.min(k0 + LANES) {
                for j in j0..width.min(j0 + LANES) {
                    // SAFETY: element (k, j) of B, as the caller promises.
                    out[k * stride + j] = unsafe { *b.add(k * sk + j * sn) };
                }
            }
        }
    }
}

/// Columns of the next panel when `left` remain: full ones, then what is left in one or two of like width.
fn panel_width(left: usize) -> usize {
    match left {
        0..=PANEL => left,
        49..=64 => 2 * LANES,
        _ => PANEL,
    }
}

/// C ← A B, or C ← C + A B, for A m×k and B k×n of any strides and C m×n with rows of stride `sc`.
///
/// # Safety
/// [`is_available`]; the pointers reach all elements; C's are distinct and nobody else uses them.
pub(crate) unsafe fn sgemm(
    [m, k, n]: [usize; 3],
    (a, sa): (*const f32, [usize; 2]),
    (b, sb): (*const f32, [usize; 2]),
    (c, sc): (*mut f32, usize),
    add: bool,
) {
    let packs = sb[1] != 1 || m >= PACK_ROWS;
    let scratch = if packs { DEPTH.min(k) * PANEL } else { 0 };
    f32::with_scratch(scratch, |scratch| {
        let mut column = 0;
        while column < n {
            let width = panel_width(n - column);
            let vectors = width.div_ceil(LANES);
            let mask = __mmask16::MAX >> (vectors * LANES - width);
            // At least once, for k = 0 too: C is then zero.
            for first in (0..k.max(1)).step_by(DEPTH) {
                let depth = DEPTH.min(k - first);
                let from = b.wrapping_add(first * sb[0] + column * sb[1]);
                let (start, stride) = if packs {
                    // SAFETY: this part of B, as the caller promises.
                    unsafe { pack(from, sb, [depth, width], scratch, (vectors * LANES, mask)) };
                    (scratch.as_ptr(), vectors * LANES)
                } else {
                    (from, sb[0])
                };
                let left = Left { start: a.wrapping_add(first * sa[1]), row: sa[0], k: sa[1] };
                let panel = Panel { start, k: stride, depth, mask };
                let target = Target { start: c.wrapping_add(column), row: sc, add: add || first > 0 };
                // SAFETY: these parts of the operands, and AVX-512F, as the caller promises.
                unsafe {
                    match vectors {
                        1 => rows::<1>(m, left, panel, target),
                        2 => rows::<2>(m, left, panel, target),
                        _ => rows::<3>(m, left, panel, target),
                    }
                }
            }
            column += width;
        }
    });
}
