//! CUDA backend: fused kernels, matrix products by cuBLASLt, and a driver that is loaded at run time, so that one
//! library file serves machines with and without a GPU.
//!
//! Computes in f32, and in bf16 with f32 accumulation; stores the other types. Like every backend it trusts its
//! arguments, which core has checked. Deterministic: the same call on the same GPU gives bitwise identical results,
//! because no kernel uses atomic additions. One choice is timed, at the first call of a shape, and holds for the process: see
//! [`Cuda::unfused_products`].

/// The kernel `$name` of `$stem` for a type, whose name is its suffix.
macro_rules! kernel {
    ($op:expr, $stem:literal, $name:literal, $dtype:expr) => {
        match $dtype {
            transdiff_core::DType::F32 => {
                Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_f32") })
            }
            transdiff_core::DType::BF16 => {
                Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_bf16") })
            }
            got => Err(transdiff_core::Error::DType { op: $op, expected: "f32 or bf16".into(), got }),
        }
    };
}

/// The kernel `$name` of `$stem` for a type, accessing single elements or, if `$wide`, vectors of 16 bytes.
macro_rules! vector_kernel {
    ($op:expr, $stem:literal, $name:literal, $wide:expr, $dtype:expr) => {
        match ($dtype, $wide) {
            (transdiff_core::DType::F32, true) => {
                Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_wide_f32") })
            }
            (transdiff_core::DType::BF16, true) => {
                Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_wide_bf16") })
            }
            (dtype, _) => kernel!($op, $stem, $name, dtype),
        }
    };
}

/// The kernel `$name` of `$stem` for tensors of the type `$dtype` and a residual stream of the same type, or in f32 beside
/// tensors in bf16; it accesses single elements or, if `$wide`, vectors of 16 bytes.
macro_rules! stream_kernel {
    ($op:expr, $stem:literal, $name:literal, $wide:expr, $stream:expr, $dtype:expr) => {
        match $wide {
            wide if $stream == $dtype => vector_kernel!($op, $stem, $name, wide, $dtype),
            true => Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_stream_wide_bf16") }),
            false => Ok($crate::driver::Kernel { module: $stem, name: concat!($name, "_stream_bf16") }),
        }
    };
}

mod attention;
mod attention_backward;
mod caching_allocator;
mod conv;
mod cublaslt;
mod device;
mod driver;
mod dropout_mask;
mod elementwise;
mod embedding;
mod gemm;
mod group_norm;
mod linear;
mod loss;
mod matmul;
mod nccl;
mod norm;
mod norm_backward;
mod optim;
mod pool;
mod reduce;
mod residual;
mod row_partition;
mod shared_library;
mod softmax;
mod staging;
mod storage;
mod strided;
mod strided_indexer;

pub use device::{Cuda, Graph};
pub use nccl::{Nccl, NcclLaunch, NcclRanks};
pub use storage::Buffer;

use device::{In, Out};
use transdiff_core::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, ImageOps, LinearGrads,
    NnOps, NormArgs, NormGrads, Pooling, Summation, TensorOps, TrainOps, UnaryOp, Windows,
};
use transdiff_core::{Result, rng::Dropout};

/// Number of images of `pixels` pixels that are computed at a time; see [`ImageOps::images_at_once`].
pub fn images_at_once(pixels: usize) -> usize {
    const PIXELS: usize = 1 << 20;
    (PIXELS / pixels.max(1)).max(1)
}

impl TensorOps for Cuda {
    fn unary(&self, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
        elementwise::unary(self, op, x, out)
    }

    fn unary_backward(&self, op: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
        elementwise::unary_backward(self, op, x, dy, dx)
    }

    fn binary(&self, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        elementwise::binary(self, op, a, b, out)
    }

    fn affine(&self, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
        elementwise::affine(self, x, mul, add, out)
    }

    fn sum(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        reduce::sum(self, x, out)
    }

    fn matmul(&self, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        matmul::matmul(self, a, b, out)
    }
}

impl NnOps for Cuda {
    fn linear(
        &self,
        x: In<'_>,
        w: In<'_>,
        b: Option<In<'_>>,
        act: Activation,
        y: Out<'_>,
        pre: Option<Out<'_>>,
    ) -> Result<()> {
        linear::forward(self, x, w, b, act, y, pre)
    }

    fn linear_backward(
        &self,
        x: In<'_>,
        w: In<'_>,
        act: Activation,
        pre: Option<In<'_>>,
        dy: In<'_>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        debug_assert_eq!(pre.is_some(), act != Activation::None);
        linear::backward(self, x, w, act, pre, dy, grads)
    }

    fn norm_modulate(&self, args: NormArgs<'_, Self>, y: Out<'_>, stats: Option<Out<'_>>) -> Result<()> {
        norm::forward(self, args, y, stats)
    }

    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: In<'_>,
        dy: In<'_>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()> {
        norm_backward::backward(self, args, stats, dy, grads)
    }

    fn gated_residual(
        &self,
        x: In<'_>,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        y: Out<'_>,
    ) -> Result<()> {
        residual::forward(self, x, u, gate, dropout, y)
    }

    fn gated_residual_backward(
        &self,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        dy: In<'_>,
        du: Out<'_>,
        dgate: Option<Out<'_>>,
    ) -> Result<()> {
        residual::backward(self, u, gate, dropout, dy, du, dgate)
    }

    fn dropout_mask(&self, dropout: Dropout, nkv: usize, kept: Out<'_>) -> Result<()> {
        dropout_mask::dropout_mask(self, dropout, nkv, kept)
    }

    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_>, lse: Option<Out<'_>>) -> Result<()> {
        attention::forward(self, args, y, lse)
    }

    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: In<'_>,
        lse: In<'_>,
        dy: In<'_>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        attention_backward::backward(self, args, y, lse, dy, grads)
    }

    fn embedding(&self, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
        embedding::forward(self, table, ids, out)
    }

    fn embedding_backward(&self, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
        embedding::backward(self, ids, dy, dtable)
    }

    fn mse(&self, a: In<'_>, b: In<'_>, loss: Out<'_>) -> Result<()> {
        loss::forward(self, a, b, loss)
    }

    fn mse_backward(&self, a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) -> Result<()> {
        loss::backward(self, a, b, dloss, da)
    }
}

impl ImageOps for Cuda {
    /// About a million pixels: the coarsest level of the published autoencoder has one pixel per 256 pixels of the
    /// image, and a few thousand occupy the device.
    fn images_at_once(&self, pixels: usize) -> usize {
        images_at_once(pixels)
    }

    fn group_norm(
        &self,
        x: In<'_>,
        affine: (In<'_>, In<'_>),
        groups: usize,
        eps: f64,
        scale_shift: Out<'_>,
    ) -> Result<()> {
        group_norm::forward(self, x, affine, groups, eps, scale_shift)
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: Out<'_>) -> Result<()> {
        conv::forward(self, args, y)
    }

    fn pool2d(&self, x: In<'_>, pooling: Pooling, windows: Windows, y: Out<'_>) -> Result<()> {
        pool::forward(self, x, pooling, windows, y)
    }
}

impl TrainOps for Cuda {
    fn adamw_step(&self, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        optim::adamw_step(self, hyper, slots)
    }

    fn ema_step(&self, decay: f64, pairs: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        optim::ema_step(self, decay, pairs)
    }

    fn squared_norms(&self, tensors: &[In<'_>]) -> Result<Vec<f64>> {
        optim::squared_norms(self, tensors)
    }

    fn summation(&self) -> Summation {
        Summation::Sequential
    }
}
