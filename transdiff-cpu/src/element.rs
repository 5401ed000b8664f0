//! Scalars: the types that memory holds, and the arithmetic of those that kernels compute in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use half::bf16;

use crate::math;

/// A type of stored elements: a number, for which all bits zero is a value.
pub(crate) trait Element: Copy + Debug + Default + Send + Sync + 'static {
    /// Nearest value to `x` (integers: towards zero).
    fn of(x: f64) -> Self;
    /// The value, exactly.
    fn wide(self) -> f64;
}

macro_rules! element {
    ($T:ty, $of:expr, $wide:expr) => {
        impl Element for $T {
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

element!(f32, |x| x as f32, f64::from);
element!(f64, |x| x, |x| x);
element!(bf16, transdiff_core::bf16_from_f64, bf16::to_f64);
element!(i32, |x| x as i32, f64::from);
element!(i16, |x| x as i16, f64::from);
element!(i8, |x| x as i8, f64::from);
element!(u8, |x| x as u8, f64::from);

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
    /// eˣ; 0 where the result is below the normal numbers of the type.
    fn exp(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;

    /// The larger of two numbers, neither a NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

macro_rules! real {
    ($T:ident, $ln:path, $exp:path, $erf:path) => {
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
        }
    };
}

real!(f32, libm::logf, math::exp, math::erf);
real!(f64, libm::log, libm::exp, libm::erf);
