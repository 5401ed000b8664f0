//! Matrix products.
//!
//! [`driver`] is the only loop nest: it partitions C between threads, has panels of B packed ([`pack`]) and calls a
//! micro-kernel ([`micro_kernel`] is the trait, one file per kernel) and an [`epilogue`]. This module chooses the kernel
//! of a type on the processor at hand.
//!
//! An element of C is a sum over k in an order that depends on K alone, in every kernel, so that results do not depend
//! on the place of a row in C or on the partition of C. This holds at the edges of C, too, where partial tiles take
//! another path; `tests` checks it.

#[cfg(target_arch = "x86_64")]
mod avx512_f32;
mod driver;
mod epilogue;
mod matrixmultiply;
mod micro_kernel;
mod operand;
mod pack;
#[cfg(test)]
mod tests;

pub(crate) use epilogue::{Epilogue, NoEpilogue};
pub(crate) use operand::Operand;

use self::matrixmultiply::MatrixMultiply;
use crate::device::Cpu;
use crate::view::Float;

/// Alignment of partitions by callers, in columns: the widest panel of any kernel.
pub(crate) const ALIGNMENT: usize = 48;

/// A type with matrix products.
pub(crate) trait Gemm: Float {
    /// C ← epilogue(A B) for A m×k, B k×n and C m×n, row-major without gaps.
    fn gemm(
        cpu: &Cpu,
        size: [usize; 3],
        a: Operand<'_, Self>,
        b: Operand<'_, Self>,
        c: &mut [Self],
        epilogue: &impl Epilogue<Self>,
    );

    /// C ← A B, or C ← C + A B, for A m×k, B k×n and C m×n, row-major without gaps, by the calling thread.
    fn gemm_serial(
        size: [usize; 3],
        a: Operand<'_, Self>,
        b: Operand<'_, Self>,
        c: &mut [Self],
        accumulate: bool,
    );
}

/// Implements [`Gemm`] with the micro-kernel that `$select` binds to `$kernel` in its continuation.
macro_rules! gemm {
    ($T:ty, $select:ident) => {
        impl Gemm for $T {
            fn gemm(
                cpu: &Cpu,
                size: [usize; 3],
                a: Operand<'_, Self>,
                b: Operand<'_, Self>,
                c: &mut [Self],
                epilogue: &impl Epilogue<Self>,
            ) {
                $select!(kernel => driver::product(cpu, kernel, size, a, b, c, epilogue));
            }

            fn gemm_serial(
                size: [usize; 3],
                a: Operand<'_, Self>,
                b: Operand<'_, Self>,
                c: &mut [Self],
                accumulate: bool,
            ) {
                $select!(kernel => driver::serial(&kernel, size, a, b, c, accumulate));
            }
        }
    };
}

/// Selects AVX-512 if the processor has it: that kernel reads A in place, which matters for small K.
macro_rules! select_f32 {
    ($kernel:ident => $product:expr) => {
        #[cfg(target_arch = "x86_64")]
        if let Some($kernel) = avx512_f32::Avx512F32::detect() {
            return $product;
        }
        let $kernel = MatrixMultiply::<f32>::default();
        $product
    };
}

macro_rules! select_f64 {
    ($kernel:ident => $product:expr) => {
        let $kernel = MatrixMultiply::<f64>::default();
        $product
    };
}

gemm!(f32, select_f32);
gemm!(f64, select_f64);
