//! Tiles of the kernels whose elements come in groups of k that fill 32 bits: pairs of bf16, fours of 8-bit integers.
//!
//! C is computed in tiles of up to 8 rows and 3 vectors of 16 columns, which stay in registers for a whole block of k. A
//! is read in place, a group per row, and broadcast. B is packed in groups, [groups of k, columns, group], in whole vectors.

/// Number of columns per vector.
pub(super) const LANES: usize = 16;
/// Number of columns of a full panel.
pub(super) const PANEL: usize = 3 * LANES;

/// Defines `rows`, the tiles of all rows of a panel, for a kernel:
///
/// - `$features`: instruction sets;
/// - `$left`, `$right`, `$sum`: elements of A, B and the sums, `$group`: number of k per group;
/// - intrinsics for a vector of sums: zero, addition, masked load and store;
/// - `$dot`: sums + group of A · group of B.
macro_rules! packed_tiles {
    (
        $features:literal, [$left:ty, $right:ty, $sum:ty], $group:expr,
        { $zero:ident, $add:ident, $load:ident, $store:ident }, $dot:expr
    ) => {
        /// A tile of `ROWS` rows and `WIDTH` vectors of columns, the last of them masked by `last`.
        ///
        /// # Safety
        /// The processor has the kernel's instruction sets. `a` reaches `ROWS` rows of whole groups of the panel's depth,
        /// `b` is packed, `c` reaches `ROWS` rows and the panel's columns.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn tile<const ROWS: usize, const WIDTH: usize>(
            a: Left<$left>,
            b: Panel<$right>,
            last: __mmask16,
            c: Sums<$sum>,
        ) {
            let mut sums = [[$zero(); WIDTH]; ROWS];
            let (mut left, mut right) = (a.start, b.start);
            for _ in 0..b.depth.div_ceil($group) {
                let mut columns = [_mm512_setzero_si512(); WIDTH];
                for (j, column) in columns.iter_mut().enumerate() {
                    // SAFETY: panels are packed in whole vectors.
                    *column = unsafe { _mm512_loadu_si512(right.add(j * LANES * $group).cast()) };
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    // SAFETY: a group of row i of A, as the caller promises.
                    let group = unsafe { left.add(i * a.strides[0]).cast::<i32>().read_unaligned() };
                    let group = _mm512_set1_epi32(group);
                    for (sum, &column) in row.iter_mut().zip(&columns) {
                        *sum = $dot(*sum, group, column);
                    }
                }
                // After the last group they may point beyond the operands, where nothing is read.
                (left, right) = (left.wrapping_add($group), right.wrapping_add(b.strides[0]));
            }
            for (i, row) in sums.iter().enumerate() {
                for (j, &sum) in row.iter().enumerate() {
                    let mask = if j + 1 == WIDTH { last } else { !0 };
                    // SAFETY: row i and columns of the tile; lanes beyond the mask are neither read nor written.
                    unsafe {
                        let place = c.start.add(i * c.stride + j * LANES);
                        let sum = if c.accumulate { $add($load(mask, place), sum) } else { sum };
                        $store(place, mask, sum);
                    }
                }
            }
        }

        /// Tiles of all `m` rows of a panel.
        ///
        /// # Safety
        /// As [`tile`], for `m` rows.
        #[target_feature(enable = $features)]
        unsafe fn rows<const WIDTH: usize>(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            let last = __mmask16::MAX >> (b.width.next_multiple_of(LANES) - b.width);
            let mut i = 0;
            while i < m {
                let (a, c) = (a.from(i, 0), c.from(i, 0));
                // SAFETY: rows i.. of those that the caller promises, no more than there are.
                i += unsafe {
                    match m - i {
                        8.. => {
                            tile::<8, WIDTH>(a, b, last, c);
                            8
                        }
                        4.. => {
                            tile::<4, WIDTH>(a, b, last, c);
                            4
                        }
                        2.. => {
                            tile::<2, WIDTH>(a, b, last, c);
                            2
                        }
                        _ => {
                            tile::<1, WIDTH>(a, b, last, c);
                            1
                        }
                    }
                };
            }
        }

        /// [`rows`] of a panel of any width.
        ///
        /// # Safety
        /// As [`rows`].
        pub(super) unsafe fn panel_rows(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            // SAFETY: as the caller promises.
            unsafe {
                match b.width.div_ceil(LANES) {
                    1 => rows::<1>(m, a, b, c),
                    2 => rows::<2>(m, a, b, c),
                    _ => rows::<3>(m, a, b, c),
                }
            }
        }
    };
}

pub(super) use packed_tiles;
