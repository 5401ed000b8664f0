//! Matrix products of attention: small matrices that are in the cache, so no packing, no threads, no allocation.

use crate::element::Real;

/// Alignment of the widths of B and C, in elements.
pub(crate) const ALIGNMENT: usize = 8;

/// C ← A B, or C ← C + A B, for A m×k of any strides, and B k×n and C m×n with contiguous rows.
/// An element of C is a sum fused from the left over k, for any m and n.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a, T> {
    /// m, k, n; n is a multiple of [`ALIGNMENT`].
    pub(crate) size: [usize; 3],
    pub(crate) a: &'a [T],
    pub(crate) a_strides: [usize; 2],
    pub(crate) b: &'a [T],
    pub(crate) b_stride: usize,
    pub(crate) c_stride: usize,
    pub(crate) accumulate: bool,
}

simd! {
    fn run<T: Real>(p: &Product<'_, T>, c: &mut [T]) {
        // Blocks whose sums stay in registers beside a row of B and an element of A: 16 of the 32 of AVX-512, 12 of the 16 of
        // AVX2, 24 of the 32 of NEON.
        let wide = multiversion::target::target_cfg_f!(target_feature = "avx512f");
        // SAFETY: `compute` has checked that all elements lie within the slices.
        unsafe {
            match (wide, size_of::<T>()) {
                (true, 4) => strips::<T, 8, 32>(p, c),
                (true, _) => strips::<T, 8, 16>(p, c),
                (false, 4) => strips::<T, 6, 16>(p, c),
                (false, _) => strips::<T, 6, 8>(p, c),
            }
        }
    }
}

impl<T: Real> Product<'_, T> {
    pub(crate) fn compute(&self, c: &mut [T]) {
        let [m, k, n] = self.size;
        if m == 0 || n == 0 {
            return;
        }
        assert!(n % ALIGNMENT == 0 && c.len() >= (m - 1) * self.c_stride + n);
        if k > 0 {
            assert!(self.a.len() > (m - 1) * self.a_strides[0] + (k - 1) * self.a_strides[1]);
            assert!(self.b.len() >= (k - 1) * self.b_stride + n);
        }
        run(self, c);
    }
}

/// All of C, in blocks of R rows and W columns, and smaller ones at the edges.
///
/// # Safety
/// A, B and C reach the elements that their sizes and strides imply.
#[inline(always)]
unsafe fn strips<T: Real, const R: usize, const W: usize>(p: &Product<'_, T>, c: &mut [T]) {
    let n = p.size[2];
    let mut j = 0;
    // SAFETY: columns j.. of a strip lie below n.
    unsafe {
        while n - j >= W {
            strip::<T, R, W>(p, c, j);
            j += W;
        }
        if W > 16 && n - j >= 16 {
            strip::<T, R, 16>(p, c, j);
            j += 16;
        }
        if W > 8 && n - j >= 8 {
            strip::<T, R, 8>(p, c, j);
        }
    }
}

/// W columns of C, in blocks of R rows.
///
/// # Safety
/// As [`strips`].
#[inline(always)]
unsafe fn strip<T: Real, const R: usize, const W: usize>(p: &Product<'_, T>, c: &mut [T], j: usize) {
    let m = p.size[0];
    let mut i = 0;
    // SAFETY: rows i.. of a block lie below m.
    unsafe {
        while m - i >= R {
            block::<T, R, W>(p, c, i, j);
            i += R;
        }
        while m - i >= 2 {
            block::<T, 2, W>(p, c, i, j);
            i += 2;
        }
        if i < m {
            block::<T, 1, W>(p, c, i, j);
        }
    }
}

/// R rows and W columns of C, kept in registers over k.
///
/// # Safety
/// As [`strips`].
#[inline(always)]
unsafe fn block<T: Real, const R: usize, const W: usize>(
    p: &Product<'_, T>,
    c: &mut [T],
    i: usize,
    j: usize,
) {
    let [rs, cs] = p.a_strides;
    let mut acc = [[T::ZERO; W]; R];
    // SAFETY: the caller promises that rows i..i + R and columns j..j + W are within C, and that A and B reach their
    // elements.
    unsafe {
        let c = c.as_mut_ptr().add(i * p.c_stride + j);
        if p.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = *c.add(r * p.c_stride).cast::<[T; W]>();
            }
        }
        let mut a = p.a.as_ptr().wrapping_add(i * rs);
        let mut b = p.b.as_ptr().wrapping_add(j);
        for _ in 0..p.size[1] {
            let row = *b.cast::<[T; W]>();
            for (r, acc) in acc.iter_mut().enumerate() {
                let element = *a.add(r * rs);
                for (acc, &x) in acc.iter_mut().zip(&row) {
                    *acc = element.fma(x, *acc);
                }
            }
            a = a.wrapping_add(cs);
            b = b.wrapping_add(p.b_stride);
        }
        for (r, acc) in acc.iter().enumerate() {
            *c.add(r * p.c_stride).cast::<[T; W]>() = *acc;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function that computes a product.
    type Compute<T> = unsafe fn(&Product<'_, T>, &mut [T]);

    /// Sums of every size are fused from the left, and nothing beside C is written.
    fn check<T: Real>(compute: Compute<T>) {
        let values = |len: usize, seed: usize| -> Vec<T> {
            (0..len).map(|i| T::of(((i * 37 + seed) % 101) as f64 / 17.0 - 3.0)).collect()
        };
        for (m, n) in (0..20).flat_map(|m| (8..=72).step_by(8).map(move |n| (m, n))) {
            for (k, accumulate) in [(0, false), (1, true), (7, false), (7, true)] {
                // A by rows, and by columns.
                for a_strides in [[k + 1, 1], [1, m + 2]] {
                    let a = values(m * (k + 1) + k * (m + 2) + 1, 5);
                    let (b, before) = (values(k * (n + 3) + n, 11), values(m * (n + 5) + n, 23));
                    let product = Product {
                        size: [m, k, n],
                        a: &a,
                        a_strides,
                        b: &b,
                        b_stride: n + 3,
                        c_stride: n + 5,
                        accumulate,
                    };
                    let (mut got, mut want) = (before.clone(), before);
                    // SAFETY: all elements are within the slices.
                    unsafe { compute(&product, &mut got) };
                    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                        let c = &mut want[i * (n + 5) + j];
                        let start = if accumulate { *c } else { T::ZERO };
                        *c = (0..k).fold(start, |sum, l| {
                            a[i * a_strides[0] + l * a_strides[1]].fma(b[l * (n + 3) + j], sum)
                        });
                    }
                    assert_eq!(got, want, "{m}×{k}×{n}, {a_strides:?}, accumulate: {accumulate}");
                }
            }
        }
    }

    #[test]
    fn blocks_of_every_processor_sum_alike() {
        check::<f32>(|p, c| p.compute(c));
        check::<f64>(|p, c| p.compute(c));
        check::<f32>(strips::<f32, 8, 32>);
        check::<f64>(strips::<f64, 8, 16>);
        check::<f32>(strips::<f32, 6, 16>);
        check::<f64>(strips::<f64, 6, 8>);
    }
}
