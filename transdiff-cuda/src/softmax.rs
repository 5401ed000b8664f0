//! Attention through a softmax between two matrix products, for heads that are too wide for one kernel: the autoencoder's
//! only head has all 512 channels. Its scores are in memory whole, of one head of the images at a time, in f32.

use transdiff_core::backend::AttentionArgs;
use transdiff_core::{DType, Error, Result};

use crate::attention::narrowed;
use crate::cublaslt::Matrix;
use crate::device::{Address, Cuda, In, Out};
use crate::driver::{Launch, Params};
use crate::gemm::{Factor, Gemm};

const OP: &str = "attention";
/// Threads of a block: `SOFTMAX_THREADS` of the kernel.
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

// SAFETY: the fields of `SoftmaxParams` in softmax.cu.
unsafe impl Params for SoftmaxParams {}

/// Head `head` of every image: [tokens, size] with the tensor's strides.
fn head(address: u64, size_of: usize, layout: &transdiff_core::Layout, head: usize) -> Factor {
    let (shape, strides) = (layout.shape(), layout.strides());
    let matrix = Matrix {
        rows: shape[1],
        cols: shape[3],
        stride: strides[1].max(shape[3]),
        batch_stride: strides[0],
        transposed: false,
    };
    Factor { matrix, address: address + (head * strides[2] * size_of) as u64 }
}

/// [`attention`](transdiff_core::backend::NnOps::attention) without mask, dropout and log-sum-exp: what needs these has
/// narrow heads.
pub(crate) fn attention(cuda: &Cuda, args: AttentionArgs<'_, Cuda>, y: Out<'_>) -> Result<()> {
    let (&[images, queries, heads, size], keys) = (args.q.layout.shape(), args.k.layout.shape()[1]) else {
        unreachable!("core checks the rank")
    };
    let dtype = args.q.dtype;
    let (rows, of) = (images * queries, dtype.size());
    // A token's row is as long as a step at most, or its strides are no matrix's.
    let is_matrix = |x: &In<'_>| x.layout.shape()[1] == 1 || x.layout.strides()[1] >= size;
    if ![args.q, args.k, args.v].iter().all(is_matrix) {
        return Err(Error::shape(OP, "tokens that do not share memory", args.q.layout.shape()));
    }
    let scores = cuda.scratch(OP, rows * keys * DType::F32.size())?;
    let weights = cuda.scratch(OP, rows * keys * of)?;
    let matrix = |address: u64, cols: usize| {
        let mut factor = Factor::new(address, queries, cols);
        factor.matrix.batch_stride = queries * cols;
        factor
    };
    for h in 0..heads {
        let [q, k, v] = [&args.q, &args.k, &args.v].map(|x| head(x.address(), of, x.layout, h));
        let c = matrix(scores.address(), keys);
        Gemm { dtype, result: DType::F32, a: q, b: k.t(), c, batch: images }.plain(cuda, OP)?;
        let params = SoftmaxParams {
            x: scores.address(),
            y: weights.address(),
            width: keys as u64,
            scale: args.scale as f32,
            padding: 0,
        };
        let launch = Launch { grid: [narrowed(OP, rows)?, 1, 1], block: THREADS, shared: 0 };
        cuda.launch(OP, kernel!(OP, "softmax", "softmax", dtype)?, launch, &params)?;
        let c = head(y.address(), of, y.layout, h);
        let a = matrix(weights.address(), keys);
        Gemm { dtype, result: dtype, a, b: v, c, batch: images }.plain(cuda, OP)?;
    }
    Ok(())
}
