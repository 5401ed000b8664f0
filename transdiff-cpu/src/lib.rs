//! The CPU backend: matrix products by micro-kernels for AVX-512, AVX2 and NEON or by matrixmultiply, strided loops by
//! ndarray, and vectorised kernels for all other operations.
//!
//! # Determinism
//!
//! Results are bitwise identical for any number of threads: every sum has an order that depends on the shapes alone,
//! and work is partitioned where no sum crosses. They are batch invariant: the result for a row does not depend on the
//! other rows. Instruction sets sum matrix products in blocks of different sizes, so that their results differ by
//! rounding.
//!
//! # Types
//!
//! Operations take f32, f64 and bf16. Tensors in bf16 take half the memory of f32; arithmetic and sums are in f32, and results
//! are rounded. Products round what is computed for them, too: the gradient before an activation, and scaled and shifted
//! images. A linear layer with a quantised weight quantises its input row by row; its sums over 8-bit integers are exact.
//!
//! # Instruction sets
//!
//! Kernels are plain loops, compiled by `simd!` for AVX-512, AVX2 and the baseline; the best version is chosen at run
//! time. On aarch64 the baseline has NEON. All of them use fused multiply-add: on an x86 processor without it (before 2013) they
//! are correct and slow.
//!
//! # Layers
//!
//! Modules import only those of layers above them in this table:
//!
//! | layer | modules |
//! |---|---|
//! | scalars | `math` (elementary functions), `element` (types and arithmetic), `activation`, `row_sums` |
//! | memory | `memory` (typed blocks), `caching_allocator`, `int8_panels` (quantised weights), `buffer`, `scratch` (per thread), `disjoint_slice` |
//! | threads | `thread_pool` |
//! | device | `instruction_set`; `device`: [`Cpu`], which owns the pool and the allocator and shares out work |
//! | views | `view`: buffers as slices; `strided`: iteration over any strides |
//! | products | `gemm` (driver, packing, one file per micro-kernel), `small_gemm` (in the cache, for attention) |
//! | operations | one file per family, with the name that the family has in core and in the CUDA backend |
//! | traits | `storage`, `elementwise` and this file implement the traits of [`transdiff_core::backend`] |
//!
//! No arguments are checked: core has checked them.

/// Compiles a function for each instruction set that matters, and chooses the best at run time.
macro_rules! simd {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
            "x86_64+avx2+fma"
        ))]
        $($function)*
    };
}

/// Evaluates an expression with `$T` as the Rust type of a float type.
macro_rules! with_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            transdiff_core::DType::F32 => {
                type $T = f32;
                $body
            }
            transdiff_core::DType::F64 => {
                type $T = f64;
                $body
            }
            transdiff_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            got => Err(transdiff_core::Error::DType { op: $op, expected: "a float type".into(), got }),
        }
    };
}

/// Evaluates an expression with `$T` as the Rust type of a float type, and `$S` as that of a residual stream: the same, or
/// the accumulator's.
macro_rules! with_stream {
    ($op:expr, $stream:expr, $dtype:expr, $S:ident, $T:ident => $body:expr) => {
        with_float!($op, $dtype, $T => {
            if $stream == $dtype {
                type $S = $T;
                $body
            } else {
                debug_assert_eq!($stream, $dtype.accumulator());
                type $S = <$T as $crate::view::Float>::Real;
                $body
            }
        })
    };
}

#[macro_use]
mod scratch;

mod activation;
mod attention;
mod attention_backward;
mod buffer;
mod caching_allocator;
mod conv;
mod device;
mod disjoint_slice;
mod element;
mod elementwise;
mod embedding;
mod gemm;
mod group_norm;
mod instruction_set;
mod int8_panels;
mod linear;
mod loss;
mod math;
mod matmul;
mod memory;
mod norm;
mod optim;
mod pool;
mod random;
mod reduce;
mod residual;
mod row_sums;
mod small_gemm;
mod storage;
mod strided;
#[cfg(test)]
mod tests;
mod thread_pool;
mod view;

pub use buffer::Buffer;
pub use device::Cpu;
pub use instruction_set::InstructionSet;

use transdiff_core::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, ConvArgs, ImageOps, LinearGrads, NnOps,
    NormArgs, NormGrads, Pooling, TrainOps, View, ViewMut, Windows,
};
use transdiff_core::{Result, rng::Dropout};

impl NnOps for Cpu {
    fn linear(
        &self,
        x: View<'_, Self>,
        w: View<'_, Self>,
        b: Option<View<'_, Self>>,
        act: Activation,
        y: ViewMut<'_, Self>,
        pre: Option<ViewMut<'_, Self>>,
    ) -> Result<()> {
        with_float!("linear", x.dtype, T => linear::forward::<T>(self, x, w, b, act, y, pre))
    }

    fn linear_backward(
        &self,
        x: View<'_, Self>,
        w: View<'_, Self>,
        act: Activation,
        pre: Option<View<'_, Self>>,
        dy: View<'_, Self>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        debug_assert_eq!(pre.is_some(), act != Activation::None);
        with_float!("linear_backward", x.dtype, T => linear::backward::<T>(self, x, w, act, pre, dy, grads))
    }

    fn norm_modulate(
        &self,
        args: NormArgs<'_, Self>,
        y: ViewMut<'_, Self>,
        stats: Option<ViewMut<'_, Self>>,
    ) -> Result<()> {
        with_stream!("norm_modulate", args.x.dtype, y.dtype, S, T => {
            norm::forward::<S, T>(self, args, y, stats)
        })
    }

    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: View<'_, Self>,
        dy: View<'_, Self>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()> {
        with_stream!("norm_modulate_backward", args.x.dtype, dy.dtype, S, T => {
            norm::backward::<S, T>(self, args, stats, dy, grads)
        })
    }

    fn gated_residual(
        &self,
        x: View<'_, Self>,
        u: View<'_, Self>,
        gate: Option<View<'_, Self>>,
        dropout: Option<Dropout>,
        y: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_stream!("gated_residual", x.dtype, u.dtype, S, T => {
            residual::forward::<S, T>(self, x, u, gate, dropout, y)
        })
    }

    fn gated_residual_backward(
        &self,
        u: View<'_, Self>,
        gate: Option<View<'_, Self>>,
        dropout: Option<Dropout>,
        dy: View<'_, Self>,
        du: ViewMut<'_, Self>,
        dgate: Option<ViewMut<'_, Self>>,
    ) -> Result<()> {
        with_stream!("gated_residual_backward", dy.dtype, u.dtype, S, T => {
            residual::backward::<S, T>(self, u, gate, dropout, dy, du, dgate)
        })
    }

    fn dropout_mask(&self, dropout: Dropout, nkv: usize, kept: ViewMut<'_, Self>) -> Result<()> {
        random::dropout_mask(self, dropout, nkv, kept);
        Ok(())
    }

    fn attention(
        &self,
        args: AttentionArgs<'_, Self>,
        y: ViewMut<'_, Self>,
        lse: Option<ViewMut<'_, Self>>,
    ) -> Result<()> {
        with_float!("attention", args.q.dtype, T => attention::forward::<T>(self, args, y, lse))
    }

    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: View<'_, Self>,
        lse: View<'_, Self>,
        dy: View<'_, Self>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        with_float!("attention_backward", args.q.dtype, T => {
            attention_backward::backward::<T>(self, args, y, lse, dy, grads)
        })
    }

    fn embedding(&self, table: View<'_, Self>, ids: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        with_float!("embedding", table.dtype, T => embedding::forward::<T>(table, ids, out))
    }

    fn embedding_backward(
        &self,
        ids: View<'_, Self>,
        dy: View<'_, Self>,
        dtable: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("embedding_backward", dy.dtype, T => embedding::backward::<T>(ids, dy, dtable))
    }

    fn mse(&self, a: View<'_, Self>, b: View<'_, Self>, loss: ViewMut<'_, Self>) -> Result<()> {
        with_float!("mse", a.dtype, T => loss::forward::<T>(self, a, b, loss))
    }

    fn mse_backward(
        &self,
        a: View<'_, Self>,
        b: View<'_, Self>,
        dloss: View<'_, Self>,
        da: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("mse_backward", a.dtype, T => loss::backward::<T>(self, a, b, dloss, da))
    }
}

impl ImageOps for Cpu {
    /// One: an image is work for all threads, and its tensors stay in the cache.
    fn images_at_once(&self, _: usize) -> usize {
        1
    }

    fn group_norm(
        &self,
        x: View<'_, Self>,
        affine: (View<'_, Self>, View<'_, Self>),
        groups: usize,
        eps: f64,
        scale_shift: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("group_norm", x.dtype, T => group_norm::forward::<T>(self, x, affine, groups, eps, scale_shift))
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: ViewMut<'_, Self>) -> Result<()> {
        with_float!("conv2d", args.x.dtype, T => conv::forward::<T>(self, args, y))
    }

    fn pool2d(
        &self,
        x: View<'_, Self>,
        pooling: Pooling,
        windows: Windows,
        y: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("pool2d", x.dtype, T => pool::forward::<T>(self, x, pooling, windows, y))
    }
}

impl TrainOps for Cpu {
    fn adamw_step(&self, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        optim::adamw_step(self, hyper, slots)
    }

    fn ema_step(&self, rate: f64, pairs: &mut [(ViewMut<'_, Self>, View<'_, Self>)]) -> Result<()> {
        optim::ema_step(self, rate, pairs)
    }

    fn squared_norms(&self, tensors: &[View<'_, Self>]) -> Result<Vec<f64>> {
        optim::squared_norms(self, tensors)
    }
}
