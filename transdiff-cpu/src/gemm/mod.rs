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
mod avx2_int8;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_f32;
#[cfg(target_arch = "x86_64")]
mod avx512_int8;
mod driver;
mod epilogue;
mod int8;
mod matrixmultiply;
mod micro_kernel;
#[cfg(target_arch = "aarch64")]
mod neon_bf16;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod_int8;
#[cfg(target_arch = "aarch64")]
mod neon_f32;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm_int8;
#[cfg(target_arch = "aarch64")]
mod neon_tile;
mod operand;
mod pack;
#[cfg(target_arch = "x86_64")]
mod packed_tile;
mod portable_int8;
#[cfg(test)]
mod tests;
mod widened;

pub(crate) use driver::serial;
pub(crate) use epilogue::{Epilogue, NoEpilogue};
pub(crate) use micro_kernel::MicroKernel;
pub(crate) use operand::Operand;

use half::bf16;
use transdiff_core::Result;

#[cfg(target_arch = "x86_64")]
use self::avx512_bf16::Avx512Bf16;
use self::int8::{Input, Int8Kernel, Tiles};
use self::matrixmultiply::MatrixMultiply;
#[cfg(target_arch = "aarch64")]
use self::neon_bf16::NeonBf16;
use self::widened::Widened;
use crate::buffer::Stored;
use crate::device::Cpu;
use crate::instruction_set::InstructionSet;
use crate::int8_panels::{GROUP, Int8Panels, WIDE_GROUP};
use crate::scratch::Scratch;
use crate::view::Float;

/// Alignment of partitions by callers, in columns: the widest panel of any kernel.
pub(crate) const ALIGNMENT: usize = 48;

/// Work of one thread or more that multiplies matrices by the micro-kernel of a type.
pub(crate) trait KernelTask<T: Float> {
    type Output;

    /// Runs with operands of type `L`, to which the caller converts what it has: f32 for bf16 if the processor multiplies
    /// bf16 no faster.
    fn run<L, K>(self, kernel: K) -> Self::Output
    where
        L: Float<Real = T::Real>,
        K: MicroKernel<Left = L, Right = L, Accumulator = T::Real, Output = T::Real>;
}

/// A type with matrix products.
pub(crate) trait Gemm: Float {
    /// Runs a task with the micro-kernel for this type.
    fn with_kernel<R: KernelTask<Self>>(cpu: &Cpu, task: R) -> R::Output;

    /// C ← epilogue(A B), rounded, for A m×k, B k×n and C m×n, row-major without gaps.
    fn gemm(
        cpu: &Cpu,
        size: [usize; 3],
        a: Operand<'_, Self>,
        b: Operand<'_, Self>,
        c: &mut [Self],
        epilogue: &impl Epilogue<Self::Real>,
    ) -> Result<()>;

    /// C ← epilogue(A B), rounded, for A m×k row-major without gaps, which is quantised row by row, and a quantised B. Only
    /// for types whose kernels compute in f32.
    fn gemm_int8(
        cpu: &Cpu,
        m: usize,
        a: &[Self],
        weight: &Int8Panels,
        c: &mut [Self],
        epilogue: &impl Epilogue<Self::Real>,
    );
}

/// Implements [`Gemm::gemm_int8`] for a type whose kernels compute in f32.
macro_rules! gemm_int8 {
    () => {
        fn gemm_int8(
            cpu: &Cpu,
            m: usize,
            a: &[Self],
            weight: &Int8Panels,
            c: &mut [Self],
            epilogue: &impl Epilogue<f32>,
        ) {
            gemm_int8(cpu, m, a, weight, c, epilogue);
        }
    };
}

/// Selects AVX-512 or NEON if the instruction set has it: those kernels read an A in place that is small or row-major,
/// which matters for small K.
macro_rules! select_f32 {
    ($cpu:expr, $kernel:ident => $product:expr) => {{
        #[cfg(target_arch = "x86_64")]
        if let Some($kernel) = avx512_f32::Avx512F32::of($cpu.instruction_set()) {
            return $product;
        }
        #[cfg(target_arch = "aarch64")]
        if let Some($kernel) = neon_f32::NeonF32::of($cpu.instruction_set()) {
            return $product;
        }
        let $kernel = MatrixMultiply::<f32>::default();
        $product
    }};
}

impl Gemm for f32 {
    gemm_int8!();

    fn with_kernel<R: KernelTask<f32>>(cpu: &Cpu, task: R) -> R::Output {
        select_f32!(cpu, kernel => task.run(kernel))
    }

    fn gemm(
        cpu: &Cpu,
        size: [usize; 3],
        a: Operand<'_, f32>,
        b: Operand<'_, f32>,
        c: &mut [f32],
        epilogue: &impl Epilogue<f32>,
    ) -> Result<()> {
        select_f32!(cpu, kernel => {
            driver::product(cpu, kernel, size, a, b, c, epilogue);
            Ok(())
        })
    }
}

impl Gemm for f64 {
    fn with_kernel<R: KernelTask<f64>>(_: &Cpu, task: R) -> R::Output {
        task.run(MatrixMultiply::<f64>::default())
    }

    fn gemm(
        cpu: &Cpu,
        size: [usize; 3],
        a: Operand<'_, f64>,
        b: Operand<'_, f64>,
        c: &mut [f64],
        epilogue: &impl Epilogue<f64>,
    ) -> Result<()> {
        driver::product(cpu, MatrixMultiply::<f64>::default(), size, a, b, c, epilogue);
        Ok(())
    }

    fn gemm_int8(_: &Cpu, _: usize, _: &[f64], _: &Int8Panels, _: &mut [f64], _: &impl Epilogue<f64>) {
        unreachable!("weights in f64 are not quantised")
    }
}

impl Gemm for bf16 {
    gemm_int8!();

    fn with_kernel<R: KernelTask<bf16>>(cpu: &Cpu, task: R) -> R::Output {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = Avx512Bf16::of(cpu.instruction_set()) {
            return task.run(kernel);
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(kernel) = NeonBf16::of(cpu.instruction_set()) {
            return task.run(kernel);
        }
        select_f32!(cpu, kernel => task.run(kernel))
    }

    fn gemm(
        cpu: &Cpu,
        size @ [m, k, _]: [usize; 3],
        a: Operand<'_, bf16>,
        b: Operand<'_, bf16>,
        c: &mut [bf16],
        epilogue: &impl Epilogue<f32>,
    ) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = Avx512Bf16::of(cpu.instruction_set()) {
            driver::product(cpu, kernel, size, a, b, c, epilogue);
            return Ok(());
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(kernel) = NeonBf16::of(cpu.instruction_set()) {
            driver::product(cpu, kernel, size, a, b, c, epilogue);
            return Ok(());
        }
        let wide = widened::widen_left(cpu, [m, k], a)?;
        let a = Operand::new(f32::slice(&wide), a.strides);
        select_f32!(cpu, kernel => {
            driver::product(cpu, kernel, size, a, Widened(b), c, epilogue);
            Ok(())
        })
    }
}

/// Values of k per group of the weights that the kernels of an instruction set read.
pub(crate) fn int8_group(set: InstructionSet) -> usize {
    if set >= InstructionSet::NeonI8mm { WIDE_GROUP } else { GROUP }
}

fn gemm_int8<T: Float<Real = f32>>(
    cpu: &Cpu,
    m: usize,
    a: &[T],
    weight: &Int8Panels,
    c: &mut [T],
    epilogue: &impl Epilogue<f32>,
) {
    let ([n, k], depth) = (weight.shape(), weight.depth());
    let (size, rows) = ([m, depth, n], [m, k, depth]);
    match Tiles::of(cpu.instruction_set(), weight) {
        Tiles::Bytes(multiply) => with_quantized_rows(cpu, rows, a, |a, rows| {
            driver::product(cpu, Int8Kernel { multiply, rows, weight }, size, a, weight, c, epilogue);
        }),
        Tiles::SignedBytes(multiply) => with_quantized_rows(cpu, rows, a, |a, rows| {
            driver::product(cpu, Int8Kernel { multiply, rows, weight }, size, a, weight, c, epilogue);
        }),
        Tiles::Pairs(multiply) => with_quantized_rows(cpu, rows, a, |a, rows| {
            driver::product(cpu, Int8Kernel { multiply, rows, weight }, size, a, weight, c, epilogue);
        }),
    }
}

/// Calls `f` with the rows of A as integers, filled up to `depth`, and their scales.
fn with_quantized_rows<T: Float<Real = f32>, Q: Input>(
    cpu: &Cpu,
    [m, k, depth]: [usize; 3],
    a: &[T],
    f: impl FnOnce(Operand<'_, Q>, &[f32]),
) {
    Q::with_scratch(m * depth, |quantized| {
        f32::with_scratch(m, |scales| {
            // Rows without elements have none.
            scales.fill(0.0);
            let rows =
                quantized.chunks_exact_mut(depth.max(1)).zip(&mut *scales).zip(a.chunks_exact(k.max(1)));
            cpu.for_each(rows, m * k / 8, |((out, scale), x)| *scale = int8::quantize_row(x, out));
            f(Operand::rows(quantized, depth), scales);
        });
    });
}
