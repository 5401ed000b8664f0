//! Element types: where their slices lie, and what arithmetic the kernels use.

use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use half::bf16;
use transdiff_core::backend::{View, ViewMut};

use crate::storage::{Buffer, Data};
use crate::{Cpu, math};

/// A type that buffers hold.
pub(crate) trait Element: Copy + Debug + Default + Send + Sync + 'static {
    /// All elements of a buffer of this type.
    fn slice(buffer: &Buffer) -> &[Self];
    /// All elements of a buffer of this type, for writing.
    fn slice_mut(buffer: &mut Buffer) -> &mut [Self];
    /// Nearest value to `x` (integers: towards zero).
    fn of(x: f64) -> Self;
    /// The value, exactly.
    fn wide(self) -> f64;
}

macro_rules! element {
    ($T:ty, $variant:ident, $of:expr, $wide:expr) => {
        impl Element for $T {
            fn slice(buffer: &Buffer) -> &[Self] {
                match buffer.data() {
                    Data::$variant(a) => a.as_slice().expect("buffers have no gaps"),
                    _ => panic!("the type of a buffer is that of its view"),
                }
            }

            fn slice_mut(buffer: &mut Buffer) -> &mut [Self] {
                match buffer.data_mut() {
                    Data::$variant(a) => a.as_slice_mut().expect("buffers have no gaps"),
                    _ => panic!("the type of a buffer is that of its view"),
                }
            }

            #[inline(always)]
            fn of(x: f64) -> Self {
                $of(x)
            }

            #[inline(always)]
            fn wide(self) -> f64 {
                $wide(self)
            }
        }
    };
}

element!(f32, F32, |x| x as f32, f64::from);
element!(f64, F64, |x| x, |x| x);
element!(bf16, BF16, transdiff_core::bf16_from_f64, bf16::to_f64);
element!(i32, I32, |x| x as i32, f64::from);

/// The elements of a view without gaps.
pub(crate) fn input<'a, T: Element>(view: &View<'a, Cpu>) -> &'a [T] {
    &T::slice(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}

/// The elements of a view without gaps, for writing.
pub(crate) fn output<'a, T: Element>(view: ViewMut<'a, Cpu>) -> &'a mut [T] {
    &mut T::slice_mut(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}

/// A type that kernels compute in.
pub(crate) trait Real:
    Element
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
{
    const ZERO: Self;
    const ONE: Self;
    const LOWEST: Self;

    /// self · a + b, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn ln(self) -> Self;
    /// eˣ; below what the type's normal numbers reach it is 0.
    fn exp(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;

    /// C ← A B, or C ← C + A B, by one thread. C has rows of stride `c.1` and columns of stride 1.
    ///
    /// # Safety
    /// The pointers reach all elements of the m×k, k×n and m×n matrices of these strides, C's elements are
    /// distinct and no other thread uses them.
    unsafe fn gemm(
        size: [usize; 3],
        a: (*const Self, [usize; 2]),
        b: (*const Self, [usize; 2]),
        c: (*mut Self, usize),
        add: bool,
    );

    /// Calls `f` with `len` elements of scratch memory that belongs to the thread, of unspecified contents.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;

    /// The larger of two numbers, neither a NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

macro_rules! real {
    ($T:ident, $gemm:path, $ln:path, $exp:path, $erf:path) => {
        impl Real for $T {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $T::NEG_INFINITY;

            #[inline(always)]
            fn fma(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                $T::sqrt(self)
            }

            fn ln(self) -> Self {
                $ln(self)
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }

            unsafe fn gemm(
                size: [usize; 3],
                a: (*const Self, [usize; 2]),
                b: (*const Self, [usize; 2]),
                c: (*mut Self, usize),
                add: bool,
            ) {
                // SAFETY: what the caller promises is what the callee asks for.
                unsafe { $gemm(size, a, b, c, add) }
            }

            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                thread_local! {
                    static FREE: RefCell<Vec<Vec<$T>>> = const { RefCell::new(Vec::new()) };
                }
                // Taken off the pile while in use: a nested call gets what is under it, the same every time.
                let mut scratch = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
                if scratch.len() < len {
                    scratch.resize(len, 0.0);
                }
                let result = f(&mut scratch[..len]);
                FREE.with_borrow_mut(|free| free.push(scratch));
                result
            }
        }
    };
}

/// A product by matrixmultiply.
macro_rules! matrixmultiply_product {
    ($name:ident, $T:ty, $callee:path) => {
        pub(crate) unsafe fn $name(
            [m, k, n]: [usize; 3],
            (a, sa): (*const $T, [usize; 2]),
            (b, sb): (*const $T, [usize; 2]),
            (c, sc): (*mut $T, usize),
            add: bool,
        ) {
            let beta = if add { 1.0 } else { 0.0 };
            let [[ra, ca], [rb, cb]] = [sa, sb].map(|s| s.map(|x| x as isize));
            // SAFETY: what the caller promises is what the callee asks for.
            unsafe { $callee(m, k, n, 1.0, a, ra, ca, b, rb, cb, beta, c, sc as isize, 1) }
        }
    };
}

matrixmultiply_product!(portable_sgemm, f32, matrixmultiply::sgemm);
matrixmultiply_product!(dgemm, f64, matrixmultiply::dgemm);

/// By our own kernel where the processor has AVX-512: it reads A in place, which matters for small K.
unsafe fn sgemm(
    size: [usize; 3],
    a: (*const f32, [usize; 2]),
    b: (*const f32, [usize; 2]),
    c: (*mut f32, usize),
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if crate::gemm_avx512::is_available() {
        // SAFETY: what the caller promises is what the callee asks for, and the processor can.
        return unsafe { crate::gemm_avx512::sgemm(size, a, b, c, add) };
    }
    // SAFETY: as above.
    unsafe { portable_sgemm(size, a, b, c, add) }
}

real!(f32, sgemm, libm::logf, math::exp, math::erf);
real!(f64, dgemm, libm::log, libm::exp, libm::erf);
