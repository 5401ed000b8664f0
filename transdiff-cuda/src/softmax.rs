//! Attention as two matrix products with a softmax (`kernels/softmax.cu`) between them, for heads that are too wide for
//! the tiled kernels: the single head of the image autoencoder has 512 channels. The f32 scores of one head, for all
//! images of the call, are stored in full.

use transdiff_core::backend::AttentionArgs;
use transdiff_core::{DType, Error, Result};

use crate::cublaslt::Matrix;
use crate::device::{Address, Cuda, In, Out, size_u32};
use crate::driver::{LaunchConfig, Params};
use crate::gemm::{Gemm, Operand};

const OP: &str = "attention";
/// Threads per block: `SOFTMAX_THREADS` of softmax.cu.
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SoftmaxParams {
    x: u64,
    y: u64,
    width: u64,
    scale: f32,
    padding: u32,
}

// SAFETY: same layout as `SoftmaxParams` in softmax.cu.
unsafe impl Params for SoftmaxParams {}

/// Head `head` of every image: a batch of matrices [tokens, size] with the tensor's strides.
fn head(address: u64, size_of: usize, layout: &transdiff_core::Layout, head: usize) -> Operand {
    let (shape, strides) = (layout.shape(), layout.strides());
    let matrix = Matrix {
        rows: shape[1],
        cols: shape[3],
        stride: strides[1].max(shape[3]),
        batch_stride: strides[0],
        transposed: false,
    };
    Operand { matrix, address: address + (head * strides[2] * size_of) as u64 }
}

/// [`attention`](transdiff_core::backend::NnOps::attention) without mask, dropout and log-sum-exp, which only models with
/// narrow heads use.
pub(crate) fn attention(cuda: &Cuda, args: AttentionArgs<'_, Cuda>, y: Out<'_>) -> Result<()> {
    let (&[images, queries, heads, size], keys) = (args.q.layout.shape(), args.k.layout.shape()[1]) else {
        unreachable!("core checks the rank")
    };
    let dtype = args.q.dtype;
    let (rows, size_of) = (images * queries, dtype.size());
    // The rows of a matrix must not overlap.
    let is_matrix = |x: &In<'_>| x.layout.shape()[1] == 1 || x.layout.strides()[1] >= size;
    if let Some(x) = [args.q, args.k, args.v].iter().find(|x| !is_matrix(x)) {
        return Err(Error::shape(OP, format!("a token stride of at least {size}"), x.layout.strides()));
    }
    let scores = cuda.scratch(OP, rows * keys * DType::F32.size())?;
    let probabilities = cuda.scratch(OP, rows * keys * size_of)?;
    let matrix = |address: u64, cols: usize| {
        let mut operand = Operand::new(address, queries, cols);
        operand.matrix.batch_stride = queries * cols;
        operand
    };
    for h in 0..heads {
        let [q, k, v] = [&args.q, &args.k, &args.v].map(|x| head(x.address(), size_of, x.layout, h));
        let c = matrix(scores.address(), keys);
        Gemm { dtype, result: DType::F32, a: q, b: k.t(), c, batch: images }.run_default(cuda, OP)?;
        let params = SoftmaxParams {
            x: scores.address(),
            y: probabilities.address(),
            width: keys as u64,
            scale: args.scale as f32,
            padding: 0,
        };
        let launch = LaunchConfig { grid: [size_u32(OP, rows)?, 1, 1], block: THREADS, shared: 0 };
        cuda.launch_kernel(OP, kernel!(OP, "softmax", "softmax", dtype)?, launch, &params)?;
        let c = head(y.address(), size_of, y.layout, h);
        let a = matrix(probabilities.address(), keys);
        Gemm { dtype, result: dtype, a, b: v, c, batch: images }.run_default(cuda, OP)?;
    }
    Ok(())
}
