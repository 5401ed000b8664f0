//! Tiles of the x86 kernels whose elements come in groups of k that fill 32 bits: pairs of bf16, fours of 8-bit integers.
//!
//! C is computed in tiles of a few rows and vectors of columns, which stay in registers for a whole block of k. A is read in
//! place, a group per row, and broadcast. B is packed in groups, [groups of k, columns, group], in whole vectors of 16.

/// Number of columns to a multiple of which panels are packed: a vector of 512 bits.
pub(super) const LANES: usize = 16;
/// Number of columns of a full panel.
pub(super) const PANEL: usize = 3 * LANES;

/// Defines `panel_rows`, which computes all rows of a panel, for a kernel:
///
/// - `$features`: instruction sets;
/// - `$left`, `$right`, `$sum`: elements of A, B and the sums, `$group`: number of k per group;
/// - `$rows`: numbers of rows of tiles in descending order, without 1, and `$columns`: vectors of columns of the widest tile;
/// - `$lanes`: number of sums per vector, the function from a number of lanes to their mask, and its type;
/// - functions of vectors: unaligned load and broadcast of groups; zero, addition, masked load and store of sums;
/// - `$dot`: sums + group of A · group of B.
macro_rules! packed_tiles {
    (
        $features:literal, [$left:ty, $right:ty, $sum:ty], $group:expr, [$($rows:literal),*] x $columns:literal,
        [$lanes:expr, $mask_of:ident, $mask:ty],
        { $load_group:ident, $broadcast:ident },
        { $zero:ident, $add:ident, $load:ident, $store:ident },
        $dot:expr
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
            last: $mask,
            c: Sums<$sum>,
        ) {
            let mut sums = [[$zero(); WIDTH]; ROWS];
            let (mut left, mut right) = (a.start, b.start);
            for _ in 0..b.depth.div_ceil($group) {
                let columns: [_; WIDTH] = std::array::from_fn(|j| {
                    // SAFETY: panels are packed in whole vectors.
                    unsafe { $load_group(right.add(j * $lanes * $group).cast()) }
                });
                for (i, row) in sums.iter_mut().enumerate() {
                    // SAFETY: a group of row i of A, as the caller promises.
                    let group = unsafe { left.add(i * a.strides[0]).cast::<i32>().read_unaligned() };
                    let group = $broadcast(group);
                    for (sum, &column) in row.iter_mut().zip(&columns) {
                        *sum = $dot(*sum, group, column);
                    }
                }
                // After the last group they may point beyond the operands, where nothing is read.
                (left, right) = (left.wrapping_add($group), right.wrapping_add(b.strides[0]));
            }
            for (i, row) in sums.iter().enumerate() {
                for (j, &sum) in row.iter().enumerate() {
                    let mask = if j + 1 == WIDTH { last } else { $mask_of($lanes) };
                    // SAFETY: row i and columns of the tile; lanes beyond the mask are neither read nor written.
                    unsafe {
                        let place = c.start.add(i * c.stride + j * $lanes);
                        let sum = if c.accumulate { $add($load(mask, place), sum) } else { sum };
                        $store(place, mask, sum);
                    }
                }
            }
        }

        /// Tiles of all `m` rows of a panel of `WIDTH` vectors.
        ///
        /// # Safety
        /// As [`tile`], for `m` rows.
        #[target_feature(enable = $features)]
        unsafe fn rows<const WIDTH: usize>(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            let last = $mask_of(b.width - (WIDTH - 1) * $lanes);
            let mut i = 0;
            while i < m {
                let (a, c) = (a.from(i, 0), c.from(i, 0));
                // SAFETY: rows i.. of those that the caller promises, no more than there are.
                unsafe {
                    $(if m - i >= $rows {
                        tile::<$rows, WIDTH>(a, b, last, c);
                        i += $rows;
                        continue;
                    })*
                    tile::<1, WIDTH>(a, b, last, c);
                    i += 1;
                }
            }
        }

        /// [`rows`] of a panel of any width.
        ///
        /// # Safety
        /// As [`rows`].
        pub(in crate::gemm) unsafe fn panel_rows(m: usize, a: Left<$left>, b: Panel<$right>, c: Sums<$sum>) {
            const WIDEST: usize = $columns * $lanes;
            for column in (0..b.width).step_by(WIDEST) {
                let start = b.start.wrapping_add(column * $group);
                let (b, c) = (Panel { start, width: WIDEST.min(b.width - column), ..b }, c.from(0, column));
                // SAFETY: as the caller promises.
                unsafe {
                    match b.width.div_ceil($lanes) {
                        1 => rows::<1>(m, a, b, c),
                        2 => rows::<2>(m, a, b, c),
                        _ => rows::<$columns>(m, a, b, c),
                    }
                }
            }
        }
    };
}

pub(super) use packed_tiles;

/// Mask of the first `lanes` of 16.
#[inline]
pub(super) fn mask16(lanes: usize) -> u16 {
    u16::MAX >> (LANES - lanes)
}
