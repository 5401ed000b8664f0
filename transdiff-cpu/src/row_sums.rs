//! Sums over rows in a fixed order: partial sums side by side, folded in pairs.

use crate::element::Real;

/// Number of partial sums in a sum over a row.
pub(crate) const LANES: usize = 16;

/// Adds up the partial sums of a row, in pairs.
#[inline(always)]
pub(crate) fn fold<T: Real, const N: usize>(mut lanes: [T; N]) -> T {
    let mut width = N / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ f(a, b) over two rows of equal length, in the type of `f`.
#[inline(always)]
pub(crate) fn sum2<A: Copy, B: Copy, S: Real>(a: &[A], b: &[B], f: impl Fn(A, B) -> S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let (mut ca, mut cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut ca).zip(&mut cb) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l]);
        }
    }
    for (l, (&a, &b)) in ca.remainder().iter().zip(cb.remainder()).enumerate() {
        lanes[l] += f(a, b);
    }
    fold(lanes)
}

/// Σ f(a) over a row.
#[inline(always)]
pub(crate) fn sum1<A: Copy, S: Real>(a: &[A], f: impl Fn(A) -> S) -> S {
    sum2(a, a, |a, _| f(a))
}
