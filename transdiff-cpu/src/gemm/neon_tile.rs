//! Tiles of the kernels on NEON.
//!
//! C is computed in tiles of up to 8 rows and 12 columns. The sums of 2 rows and 4 columns fill two vectors; 24 vectors stay
//! in registers for a whole block of k. A is read in place, B in panels [groups of k, columns, group]. There are two
//! arrangements of operands and sums, for the two kinds of instructions.

use std::arch::aarch64::{
    int32x4_t, vcombine_s32, vdupq_n_s32, vget_high_s32, vget_low_s32, vld1q_s32, vsetq_lane_s32,
};
use std::arch::asm;
use std::ops::Add;

/// Columns of the two vectors of sums.
pub(super) const QUAD: usize = 4;
/// Number of columns of a full panel.
pub(super) const PANEL: usize = 3 * QUAD;

/// Full panels, then the remaining columns in one panel or two of like width.
pub(super) fn panel_width(remaining: usize) -> usize {
    match remaining {
        0..=PANEL => remaining,
        13..=16 => 2 * QUAD,
        _ => PANEL,
    }
}

/// Arrangement of operands and sums in vectors. An instruction takes a vector of each.
pub(super) trait Arrangement {
    /// Number of bytes of a group of k.
    const GROUP: usize;

    /// A group of k of two rows of A.
    ///
    /// # Safety
    /// Both pointers reach a group.
    unsafe fn left(rows: [*const i32; 2]) -> [int32x4_t; 2];

    /// A group of k of four columns of B.
    ///
    /// # Safety
    /// The pointer reaches four groups.
    unsafe fn right(columns: *const i32) -> [int32x4_t; 2];

    /// Sums of four columns, row by row.
    fn rows(sums: [int32x4_t; 2]) -> [int32x4_t; 2];
}

/// Instructions that multiply a group of a row of A, the first 32 bits of a vector, with four columns of B.
pub(super) struct ByElement;

impl Arrangement for ByElement {
    const GROUP: usize = 4;

    #[inline(always)]
    unsafe fn left(rows: [*const i32; 2]) -> [int32x4_t; 2] {
        // SAFETY: 32 bits, as the caller promises; every aarch64 processor has NEON.
        rows.map(|row| unsafe { vsetq_lane_s32::<0>(row.read_unaligned(), vdupq_n_s32(0)) })
    }

    #[inline(always)]
    unsafe fn right(columns: *const i32) -> [int32x4_t; 2] {
        // SAFETY: 128 bits, as the caller promises; every aarch64 processor has NEON.
        [unsafe { vld1q_s32(columns) }; 2]
    }

    #[inline(always)]
    fn rows(sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
        sums
    }
}

/// Instructions that multiply two rows of A with two columns of B, each a group of 64 bits.
pub(super) struct TwoByTwo;

impl Arrangement for TwoByTwo {
    const GROUP: usize = 8;

    #[inline(always)]
    unsafe fn left([first, second]: [*const i32; 2]) -> [int32x4_t; 2] {
        let groups: int32x4_t;
        // SAFETY: reads 64 bits of each row, as the caller promises. The compiler would move loads of all rows ahead of the
        // products, which needs more than the 32 registers; these it leaves in place.
        unsafe {
            asm!(
                "ldr {groups:d}, [{first}]",
                "ld1 {{{groups:v}.d}}[1], [{second}]",
                first = in(reg) first,
                second = in(reg) second,
                groups = out(vreg) groups,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        [groups; 2]
    }

    #[inline(always)]
    unsafe fn right(columns: *const i32) -> [int32x4_t; 2] {
        // SAFETY: 256 bits, as the caller promises; every aarch64 processor has NEON.
        unsafe { [vld1q_s32(columns), vld1q_s32(columns.add(QUAD))] }
    }

    #[inline(always)]
    fn rows([left, right]: [int32x4_t; 2]) -> [int32x4_t; 2] {
        // SAFETY: every aarch64 processor has NEON.
        unsafe {
            [
                vcombine_s32(vget_low_s32(left), vget_low_s32(right)),
                vcombine_s32(vget_high_s32(left), vget_high_s32(right)),
            ]
        }
    }
}

/// Writes sums of `width` columns, up to four, or adds them to what is there. `T` is a number of 32 bits.
///
/// # Safety
/// `place` reaches the columns.
#[inline(always)]
pub(super) unsafe fn store<T: Copy + Add<Output = T>>(
    sums: int32x4_t,
    width: usize,
    place: *mut T,
    accumulate: bool,
) {
    const { assert!(size_of::<[T; QUAD]>() == size_of::<int32x4_t>()) };
    // SAFETY: four numbers, of which all bits are values.
    let sums = unsafe { std::mem::transmute_copy::<int32x4_t, [T; QUAD]>(&sums) };
    // SAFETY: columns of the row, as the caller promises.
    let put = |i: usize, sum: T| unsafe {
        let place = place.add(i);
        *place = if accumulate { *place + sum } else { sum };
    };
    if width >= QUAD {
        sums.into_iter().enumerate().for_each(|(i, sum)| put(i, sum));
    } else {
        sums.into_iter().take(width).enumerate().for_each(|(i, sum)| put(i, sum));
    }
}

/// Defines `panel_rows`, the tiles of all rows of a panel, for a kernel:
///
/// - `$features`: instruction sets;
/// - `$left`, `$right`, `$sum`: elements of A, B and the sums;
/// - `$arrangement`: [`Arrangement`] of operands and sums;
/// - `$instruction`: assembly that adds to the vector `sums` the products of `left` and `right`. Rust has no stable functions
///   for most of them.
macro_rules! neon_tiles {
    ($features:literal, [$left:ty, $right:ty, $sum:ty], $arrangement:ty, $instruction:literal) => {
        /// Number of k per group.
        const GROUP: usize = <$arrangement>::GROUP / size_of::<$left>();

        #[inline]
        #[target_feature(enable = $features)]
        fn multiply_add(mut sums: int32x4_t, left: int32x4_t, right: int32x4_t) -> int32x4_t {
            // SAFETY: the processor has the instruction, which reads and writes these registers alone.
            unsafe {
                std::arch::asm!(
                    $instruction,
                    sums = inout(vreg) sums,
                    left = in(vreg) left,
                    right = in(vreg) right,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sums
        }

        /// A tile of `PAIRS` pairs of rows, the last of a single row if that is all, and `QUADS` fours of columns.
        ///
        /// # Safety
        /// The processor has the kernel's instruction sets. `a` reaches the rows in whole groups of the panel's depth, `b` whole
        /// fours of columns, `c` the rows and the panel's columns.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn tile<const PAIRS: usize, const QUADS: usize>(
            single: bool,
            a: Left<$left>,
            b: Panel<$right>,
            c: Sums<$sum>,
        ) {
            let mut sums = [[[vdupq_n_s32(0); 2]; QUADS]; PAIRS];
            let (mut left, mut right) = (a.start, b.start);
            // The second row of a pair: a single row takes its place, too.
            let second = if single { 0 } else { a.strides[0] };
            for _ in 0..b.depth.div_ceil(GROUP) {
                // SAFETY: fours of columns of the panel, as the caller promises.
                let columns: [_; QUADS] = std::array::from_fn(|j| unsafe {
                    <$arrangement>::right(right.add(j * QUAD * GROUP).cast())
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: a pair of rows of A, as the caller promises.
                    let rows = unsafe {
                        let first = left.add(2 * i * a.strides[0]);
                        <$arrangement>::left([first.cast(), first.add(second).cast()])
                    };
                    for (sums, columns) in sums.iter_mut().zip(&columns) {
                        *sums = [0, 1].map(|t| multiply_add(sums[t], rows[t], columns[t]));
                    }
                }
                // After the last group they may point beyond the operands, where nothing is read.
                left = left.wrapping_add(GROUP * a.strides[1]);
                right = right.wrapping_add(b.strides[0]);
            }
            // A copy: the loop below is not unrolled, and sums that it reads would be written to memory for every k.
            let rows = sums.map(|sums| sums.map(<$arrangement>::rows));
            for (i, rows) in rows.iter().enumerate() {
                for (j, &[first, second]) in rows.iter().enumerate() {
                    let width = if j + 1 < QUADS { QUAD } else { b.width - j * QUAD };
                    let place = c.from(2 * i, j * QUAD);
                    // SAFETY: the rows and columns of the tile, as the caller promises.
                    unsafe {
                        store(first, width, place.start, c.accumulate);
                        if !single {
                            store(second, width, place.from(1, 0).start, c.accumulate);
                        }
                    }
                }
            }
        }

        /// Tiles of all `m` rows of a panel of at most three fours of columns.
        ///
        /// # Safety
        /// As [`tile`], for `m` rows.
        #[target_feature(enable = $features)]
        unsafe fn rows<const QUADS: usize>(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            let mut i = 0;
            while i < m {
                let (a, c) = (a.from(i, 0), c.from(i, 0));
                // SAFETY: rows i.. of those that the caller promises, no more than there are.
                i += unsafe {
                    match m - i {
                        8.. => {
                            tile::<4, QUADS>(false, a, b, c);
                            8
                        }
                        4.. => {
                            tile::<2, QUADS>(false, a, b, c);
                            4
                        }
                        2.. => {
                            tile::<1, QUADS>(false, a, b, c);
                            2
                        }
                        _ => {
                            tile::<1, QUADS>(true, a, b, c);
                            1
                        }
                    }
                };
            }
        }

        /// Tiles of all `m` rows of a panel of any width.
        ///
        /// # Safety
        /// As [`tile`], for `m` rows.
        pub(super) unsafe fn panel_rows(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            let mut column = 0;
            while column < b.width {
                let width = panel_width(b.width - column);
                let (b, c) =
                    (Panel { start: b.start.wrapping_add(column * GROUP), width, ..b }, c.from(0, column));
                // SAFETY: columns of the panel, as the caller promises.
                unsafe {
                    match width.div_ceil(QUAD) {
                        1 => rows::<1>(m, a, b, c),
                        2 => rows::<2>(m, a, b, c),
                        _ => rows::<3>(m, a, b, c),
                    }
                }
                column += width;
            }
        }
    };
}

pub(super) use neon_tiles;
