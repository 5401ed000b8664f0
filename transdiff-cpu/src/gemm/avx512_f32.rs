//! Single-precision products on AVX-512.
//!
//! C is computed in tiles of up to 8 rows and 3 vectors of 16 columns, which stay in registers for a whole block of
//! k. A is read in place, with any strides; if it is large and lies column by column, its rows are copied first, since each
//! k of a tile would be on another page. B is packed into panels of the
//! tile's width, which stay in the second-level cache while all rows pass; with few rows, or if all of it stays there,
//! it is read in place.
//!
//! Every element is a sum fused from the left within blocks of [`DEPTH`] k, the blocks added in order: it does not
//! depend on its place in C or on the size of C. Elements at edges are summed in the same order.

use std::arch::x86_64::{
    __m512, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};
use super::pack::pack_strided;
use crate::instruction_set::InstructionSet;

const LANES: usize = 16;
/// Number of vectors per row of a tile; with 8 rows they make 24 accumulators of the 32 registers.
const VECTORS: usize = 3;
const PANEL: usize = VECTORS * LANES;
/// Number of values of k per block: a panel is then at most 192 KiB, so that a second-level cache has room for A beside it.
const DEPTH: usize = 1024;
/// Number of rows from which packing B pays.
const PACK_ROWS: usize = 24;
/// Number of elements up to which an operand is read in place: all of it stays in the second-level cache, on few pages.
const SMALL: usize = 1 << 16;

/// The kernel. A value of this type exists only where the processor has AVX-512F.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512F32(());

impl Avx512F32 {
    /// The kernel, if it is in the instruction set, which the processor has.
    pub(super) fn of(set: InstructionSet) -> Option<Self> {
        (set >= InstructionSet::Avx512).then_some(Self(()))
    }
}

impl MicroKernel for Avx512F32 {
    type Left = f32;
    type Right = f32;
    type Accumulator = f32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    /// Full panels, then the remaining columns in one panel or two of like width.
    fn panel_width(&self, remaining: usize) -> usize {
        match remaining {
            0..=PANEL => remaining,
            49..=64 => 2 * LANES,
            _ => PANEL,
        }
    }

    fn packed_len(&self, m: usize, depth: usize, strides: [usize; 2]) -> usize {
        let in_place = strides[1] == 1 && (m < PACK_ROWS || depth * strides[0] <= SMALL);
        if in_place { 0 } else { depth * PANEL }
    }

    unsafe fn pack(&self, b: Panel<f32>, packed: &mut [f32]) -> Panel<f32> {
        let stride = b.width.next_multiple_of(LANES);
        // SAFETY: the processor has AVX-512F; the panel reaches its elements, as the caller promises.
        unsafe { pack(b, packed, stride) };
        Panel { start: packed.as_ptr(), strides: [stride, 1], ..b }
    }

    fn packed_left_len(&self, [m, k]: [usize; 2], strides: [usize; 2]) -> usize {
        if strides[0] == 1 && strides[1] != 1 && m * k > SMALL { m * k } else { 0 }
    }

    unsafe fn pack_left(&self, a: Left<f32>, shape: [usize; 2], packed: &mut [f32]) {
        // SAFETY: the processor has AVX-512F; m×k elements, as the caller promises.
        unsafe { pack_left(a, shape, packed) };
    }

    unsafe fn multiply(&self, m: usize, a: Left<f32>, b: Panel<f32>, sums: Sums<f32>) {
        // SAFETY: the processor has AVX-512F; the operands reach their elements, as the caller promises.
        unsafe {
            match (b.width.div_ceil(LANES), b.width.is_multiple_of(LANES)) {
                (1, true) => rows::<1, true>(m, a, b, sums),
                (1, false) => rows::<1, false>(m, a, b, sums),
                (2, true) => rows::<2, true>(m, a, b, sums),
                (2, false) => rows::<2, false>(m, a, b, sums),
                (_, true) => rows::<3, true>(m, a, b, sums),
                (_, false) => rows::<3, false>(m, a, b, sums),
            }
        }
    }

    fn convert(&self, _: [usize; 2], sums: &[f32], out: &mut [f32]) {
        out.copy_from_slice(sums);
    }
}

/// The lanes of the last vector of `width` columns.
fn last_mask(width: usize) -> __mmask16 {
    __mmask16::MAX >> (width.next_multiple_of(LANES) - width)
}

/// A tile of `ROWS` rows and `WIDTH` vectors of columns. The last vector is masked by `last`; a `WHOLE` tile needs no mask,
/// which saves 4 % of the time of a product.
///
/// # Safety
/// The processor has AVX-512F. `a`, `b` and `c` reach `ROWS` rows and the panel's columns, whose stride in B is 1.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize, const WIDTH: usize, const WHOLE: bool>(
    a: Left<f32>,
    b: Panel<f32>,
    last: __mmask16,
    c: Sums<f32>,
) {
    let last = if WHOLE { __mmask16::MAX } else { last };
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let (mut left, mut right) = (a.start, b.start);
    // If A lies column by column, the elements of a tile are on as many cache lines as there are values of k: those of the tile
    // after the next are fetched.
    let ahead = if a.strides[0] == 1 { LANES } else { 0 };
    for _ in 0..b.depth {
        _mm_prefetch::<_MM_HINT_T0>(left.wrapping_add(ahead).cast());
        let mut columns = [_mm512_setzero_ps(); WIDTH];
        for (j, column) in columns.iter_mut().enumerate() {
            let mask = if j + 1 == WIDTH { last } else { !0 };
            // SAFETY: within the panel; lanes beyond the mask are not read.
            *column = unsafe { _mm512_maskz_loadu_ps(mask, right.add(j * LANES)) };
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: row i of A, as the caller promises.
            let element = _mm512_set1_ps(unsafe { *left.add(i * a.strides[0]) });
            for (sum, &column) in row.iter_mut().zip(&columns) {
                *sum = _mm512_fmadd_ps(element, column, *sum);
            }
        }
        // After the last k they may point beyond the operands, where nothing is read.
        (left, right) = (left.wrapping_add(a.strides[1]), right.wrapping_add(b.strides[0]));
    }
    for (i, row) in sums.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            let mask = if j + 1 == WIDTH { last } else { !0 };
            // SAFETY: row i and columns of the tile; lanes beyond the mask are neither read nor written.
            unsafe {
                let place = c.start.add(i * c.stride + j * LANES);
                let sum =
                    if c.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, place), sum) } else { sum };
                _mm512_mask_storeu_ps(place, mask, sum);
            }
        }
    }
}

/// Tiles of all `m` rows of a panel.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const WIDTH: usize, const WHOLE: bool>(m: usize, a: Left<f32>, b: Panel<f32>, c: Sums<f32>) {
    let last = last_mask(b.width);
    let mut i = 0;
    while i < m {
        let (a, c) = (a.from(i, 0), c.from(i, 0));
        // SAFETY: rows i.. of those that the caller promises, no more than there are.
        i += unsafe {
            match m - i {
                8.. => {
                    tile::<8, WIDTH, WHOLE>(a, b, last, c);
                    8
                }
                4.. => {
                    tile::<4, WIDTH, WHOLE>(a, b, last, c);
                    4
                }
                2.. => {
                    tile::<2, WIDTH, WHOLE>(a, b, last, c);
                    2
                }
                _ => {
                    tile::<1, WIDTH, WHOLE>(a, b, last, c);
                    1
                }
            }
        };
    }
}

/// Rows of k that are prefetched while a panel is packed: each lies on another page, where the processor's own
/// prefetching does not reach.
const AHEAD: usize = 12;

/// Copies a panel to rows of whole vectors, `stride` apart.
///
/// # Safety
/// The processor has AVX-512F; `b` reaches all its elements.
#[target_feature(enable = "avx512f")]
unsafe fn pack(b: Panel<f32>, out: &mut [f32], stride: usize) {
    assert!(out.len() >= b.depth * stride && b.width <= stride);
    let ([sk, sn], last) = (b.strides, last_mask(b.width));
    if sn != 1 {
        // SAFETY: as the caller promises.
        return unsafe { pack_strided(b, stride, out, |x| x) };
    }
    for (k, row) in out.chunks_exact_mut(stride).take(b.depth).enumerate() {
        let from = b.start.wrapping_add(k * sk);
        for j in (0..stride).step_by(LANES) {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD * sk + j).cast());
            let mask = if j + LANES == stride { last } else { !0 };
            // SAFETY: row k of B and its columns, as the caller promises; the row of `out` holds whole vectors.
            unsafe {
                let columns = _mm512_maskz_loadu_ps(mask, from.add(j));
                _mm512_mask_storeu_ps(row.as_mut_ptr().add(j), !0, columns);
            }
        }
    }
}

/// Copies `m`×`k` elements that lie column by column to rows without gaps.
///
/// # Safety
/// The processor has AVX-512F; `a` reaches the elements, and the stride of its rows is 1.
#[target_feature(enable = "avx512f")]
unsafe fn pack_left(a: Left<f32>, [m, k]: [usize; 2], out: &mut [f32]) {
    assert!(out.len() >= m * k && a.strides[0] == 1);
    for k0 in (0..k).step_by(LANES) {
        let depth = LANES.min(k - k0);
        for i0 in (0..m).step_by(LANES) {
            let rows = LANES.min(m - i0);
            let from = a.from(i0, k0).start;
            let columns = std::array::from_fn(|j| {
                let column = from.wrapping_add(j * a.strides[1]);
                // The columns of the next square, each on another page.
                _mm_prefetch::<_MM_HINT_T0>(column.wrapping_add(LANES * a.strides[1]).cast());
                let mask = if j < depth { last_mask(rows) } else { 0 };
                // SAFETY: the rows of column k0 + j, if there is one.
                unsafe { _mm512_maskz_loadu_ps(mask, column) }
            });
            for (i, row) in transposed(columns).into_iter().enumerate().take(rows) {
                // SAFETY: `depth` elements of row i0 + i.
                unsafe {
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add((i0 + i) * k + k0), last_mask(depth), row);
                }
            }
        }
    }
}

/// Transposes a square.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(columns: [__m512; LANES]) -> [__m512; LANES] {
    // Within the four lanes of 128 bits, pairs of columns and then pairs of pairs are interleaved: lane l of
    // `fours[4 g + j]` has row 4 l + j of the columns 4 g to 4 g + 3.
    let pairs: [_; LANES] = std::array::from_fn(|i| {
        let [x, y] = [columns[i & !1], columns[i | 1]];
        if i % 2 == 0 { _mm512_unpacklo_ps(x, y) } else { _mm512_unpackhi_ps(x, y) }
    });
    let fours: [_; LANES] = std::array::from_fn(|i| {
        let (group, j) = (i & !3, i % 4);
        let [x, y] = [pairs[group + j / 2], pairs[group + j / 2 + 2]].map(|pair| _mm512_castps_pd(pair));
        _mm512_castpd_ps(if j % 2 == 0 { _mm512_unpacklo_pd(x, y) } else { _mm512_unpackhi_pd(x, y) })
    });
    // Lanes 0 and 2 or 1 and 3 of two vectors each, twice.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    std::array::from_fn(|i| {
        let (l, [a, b, c, d]) = (i / 4, [0, 4, 8, 12].map(|group| fours[group + i % 4]));
        let [x, y] = match l % 2 {
            0 => [_mm512_shuffle_f32x4::<EVEN>(a, b), _mm512_shuffle_f32x4::<EVEN>(c, d)],
            _ => [_mm512_shuffle_f32x4::<ODD>(a, b), _mm512_shuffle_f32x4::<ODD>(c, d)],
        };
        if l < 2 { _mm512_shuffle_f32x4::<EVEN>(x, y) } else { _mm512_shuffle_f32x4::<ODD>(x, y) }
    })
}
