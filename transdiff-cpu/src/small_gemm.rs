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
        let n = p.size[2];
        let mut j = 0;
        // SAFETY: `compute` has checked that all elements lie within the slices.
        unsafe {
            while n - j >= 32 {
                strip::<T, 32>(p, c, j);
                j += 32;
            }
            if n - j >= 16 {
                strip::<T, 16>(p, c, j);
                j += 16;
            }
            if n - j >= 8 {
                strip::<T, 8>(p, c, j);
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

/// W columns of C.
///
/// # Safety
/// A, B and C reach the elements that their sizes and strides imply.
#[inline(always)]
unsafe fn strip<T: Real, const W: usize>(p: &Product<'_, T>, c: &mut [T], j: usize) {
    let m = p.size[0];
    let mut i = 0;
    // SAFETY: rows i.. of a block lie below m.
    unsafe {
        while m - i >= 8 {
            block::<T, 8, W>(p, c, i, j);
            i += 8;
        }
        if m - i >= 4 {
            block::<T, 4, W>(p, c, i, j);
            i += 4;
        }
        while i < m {
            block::<T, 1, W>(p, c, i, j);
            i += 1;
        }
    }
}

/// R rows and W columns of C, kept in registers over k.
///
/// # Safety
/// As [`strip`].
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
