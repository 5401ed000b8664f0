//! Matrix products: the one place that knows who computes them.
//!
//! An element of C is a sum over k in an order that depends on K alone (fused from the left within blocks of k,
//! then block by block, both in matrixmultiply and in our own kernel), so neither the place of a row in C nor how C
//! is cut changes a bit. At the edges of C, where partial tiles take another path, this holds too; a test below
//! stands guard.

use std::ops::Range;

use crate::Cpu;
use crate::element::Real;
use crate::pool::Shared;

/// A matrix operand: its first element and the strides of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) strides: [usize; 2],
}

impl<'a, T> Operand<'a, T> {
    pub(crate) fn new(data: &'a [T], strides: [usize; 2]) -> Self {
        Self { data, strides }
    }

    /// Row-major without gaps.
    pub(crate) fn rows(data: &'a [T], width: usize) -> Self {
        Self { data, strides: [width, 1] }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    fn reaches(&self, shape: [usize; 2]) -> bool {
        shape.contains(&0)
            || (shape[0] - 1) * self.strides[0] + (shape[1] - 1) * self.strides[1] < self.data.len()
    }
}

/// Elements of C in a block: small enough that what follows the product finds it in the cache.
const BLOCK: usize = 1 << 18;
/// Blocks begin at multiples of this, the widest tile of the kernels.
const GRAIN: usize = 48;

/// How C is cut: by columns where there are enough of them, since then no part of B is read twice, else by rows.
fn cut(cpu: &Cpu, [m, k, n]: [usize; 3]) -> (bool, usize) {
    let wanted = if cpu.shares(m * k * n / 50) { cpu.threads() } else { 1 };
    let by_rows = n.div_ceil(GRAIN) < wanted;
    let long = if by_rows { m } else { n };
    let blocks = (m * n).div_ceil(BLOCK).next_multiple_of(wanted).min(long.div_ceil(GRAIN)).max(1);
    (by_rows, long.div_ceil(blocks).next_multiple_of(GRAIN))
}

/// C ← A B for A m×k, B k×n and C of strides `sc`, one of which is 1; then `after(rows, columns)` for each
/// finished block of C, by the thread that computed it.
pub(crate) fn gemm<T: Real>(
    cpu: &Cpu,
    size: [usize; 3],
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    (c, sc): (Shared<'_, T>, [usize; 2]),
    after: impl Fn(Range<usize>, Range<usize>) + Send + Sync,
) {
    let [m, k, n] = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.reaches([m, k]) && b.reaches([k, n]) && sc.contains(&1));
    c.at((m - 1) * sc[0] + (n - 1) * sc[1] + 1);
    if sc[1] == 1 {
        row_major(cpu, size, a, b, (c, sc[0]), after);
    } else {
        // Cᵀ = Bᵀ Aᵀ has rows without gaps.
        let turned = (c, sc[1]);
        row_major(cpu, [n, k, m], b.transposed(), a.transposed(), turned, |cols, rows| after(rows, cols));
    }
}

fn row_major<T: Real>(
    cpu: &Cpu,
    size: [usize; 3],
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    (c, sc): (Shared<'_, T>, usize),
    after: impl Fn(Range<usize>, Range<usize>) + Send + Sync,
) {
    let [m, k, n] = size;
    let (by_rows, step) = cut(cpu, size);
    let long = if by_rows { m } else { n };
    cpu.run(long.div_ceil(step), m * k * n / 50, |i| {
        let part = i * step..long.min((i + 1) * step);
        let (rows, cols) = if by_rows { (part, 0..n) } else { (0..m, part) };
        let a_block = a.data.as_ptr().wrapping_add(rows.start * a.strides[0]);
        let b_block = b.data.as_ptr().wrapping_add(cols.start * b.strides[1]);
        let c_block = c.at(rows.start * sc + cols.start);
        let size = [rows.len(), k, cols.len()];
        // SAFETY: the operands reach their last elements, as asserted; blocks of C do not overlap.
        unsafe { T::gemm(size, (a_block, a.strides), (b_block, b.strides), (c_block, sc), false) };
        after(rows, cols);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn product(
        cpu: &Cpu,
        [m, k, n]: [usize; 3],
        a: &[f32],
        b: Operand<'_, f32>,
        by_columns: bool,
    ) -> Vec<f32> {
        let mut c = vec![0.0; m * n];
        let sc = if by_columns { [1, m] } else { [n, 1] };
        gemm(cpu, [m, k, n], Operand::rows(a, k), b, (Shared::new(&mut c), sc), |_, _| ());
        if by_columns { (0..m * n).map(|i| c[i / n + i % n * m]).collect() } else { c }
    }

    #[test]
    fn a_row_is_the_same_alone_and_in_company() {
        let (one, two) = (Cpu::new(Some(1)).unwrap(), Cpu::new(Some(3)).unwrap());
        for [m, k, n] in [[70, 24, 40], [67, 300, 37], [130, 769, 100], [33, 512, 17], [41, 2500, 130]] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            for b in [Operand::new(&b, [n, 1]), Operand::new(&b, [1, k])] {
                let all = product(&two, [m, k, n], &a, b, false);
                assert!(all == product(&one, [m, k, n], &a, b, false), "threads change {m}x{k}x{n}");
                assert!(all == product(&one, [m, k, n], &a, b, true), "the layout of C changes {m}x{k}x{n}");
                for rows in [1, 3, 8, 17] {
                    for start in [0, 1, 5, m - rows] {
                        let part = product(&two, [rows, k, n], &a[start * k..(start + rows) * k], b, false);
                        let same = part == all[start * n..(start + rows) * n];
                        assert!(same, "rows {start}..+{rows} of {m}x{k}x{n} differ");
                    }
                }
            }
        }
    }

    /// [`Real::gemm`], or another like it.
    type Product<T> =
        unsafe fn([usize; 3], (*const T, [usize; 2]), (*const T, [usize; 2]), (*mut T, usize), bool);

    /// The same of the products that this processor may not choose by itself.
    #[test]
    fn rows_are_independent_in_every_product() {
        fn check<T: Real>(name: &str, run: Product<T>) {
            for [m, k, n] in [[70, 24, 40], [67, 300, 37], [33, 512, 17], [21, 700, 90]] {
                let convert = |v: Vec<f32>| v.into_iter().map(|x| T::of(f64::from(x))).collect::<Vec<T>>();
                let (a, b) = (convert(values(m * k, 1)), convert(values(k * n, 2)));
                let product = |first: usize, rows: usize| {
                    let mut c = vec![T::ZERO; rows * n];
                    let (a, b) = ((a[first * k..].as_ptr(), [k, 1]), (b.as_ptr(), [n, 1]));
                    // SAFETY: the vectors hold matrices of these sizes.
                    unsafe { run([rows, k, n], a, b, (c.as_mut_ptr(), n), false) };
                    c
                };
                let all = product(0, m);
                for (first, rows) in [(0, 1), (5, 3), (m - 17, 17)] {
                    let same = product(first, rows) == all[first * n..(first + rows) * n];
                    assert!(same, "{name}: rows {first}..+{rows} of {m}x{k}x{n} differ");
                }
            }
        }
        check::<f64>("dgemm", <f64 as Real>::gemm);
        check::<f32>("the portable sgemm", crate::element::portable_sgemm);
        check::<f32>("sgemm", <f32 as Real>::gemm);
    }

    #[test]
    fn nothing_sums_to_zero() {
        let c = product(&Cpu::new(Some(1)).unwrap(), [2, 0, 3], &[], Operand::rows(&[], 3), false);
        assert_eq!(c, [0.0; 6]);
    }
}
