//! Launches of `kernels/attention_backward.cu`.

use transdiff_core::Result;
use transdiff_core::backend::{AttentionArgs, AttentionGrads};

use crate::attention::{Cut, Heads, Problem, kernel_of_size};
use crate::device::{Address, Cuda, In};
use crate::driver::Params;

const OP: &str = "attention_backward";

/// The struct `AttentionBackwardParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionBackwardParams {
    problem: Problem,
    y: Heads,
    dy: Heads,
    dq: Heads,
    dk: Heads,
    dv: Heads,
    lse: u64,
    mean: u64,
}

// SAFETY: the struct of the kernels.
unsafe impl Params for AttentionBackwardParams {}

/// Bytes of what the kernel for keys knows of a query: its log-sum-exp, its mean and its limit.
const KNOWN: usize = 12;

pub(crate) fn backward(
    cuda: &Cuda,
    args: AttentionArgs<'_, Cuda>,
    y: In<'_>,
    lse: In<'_>,
    dy: In<'_>,
    grads: AttentionGrads<'_, Cuda>,
) -> Result<()> {
    let &[images, queries, heads, size] = args.q.layout.shape() else { unreachable!("core checks the rank") };
    let [y, dy] = [y, dy].map(|x| Heads::new(&x, x.layout));
    let [dq, dk, dv] = [grads.dq, grads.dk, grads.dv].map(|x| Heads::new(&x, x.layout));
    let problem = Problem::new(OP, &args, &[y, dy, dq, dk, dv])?;
    let means = cuda.scratch(OP, images * heads * queries * size_of::<f32>())?;
    let (lse, mean) = (lse.address(), means.address());
    let params = AttentionBackwardParams { problem, y, dy, dq, dk, dv, lse, mean };

    let (dtype, cut) = (args.q.dtype, Cut::new(args.q.dtype, size));
    let for_queries = kernel_of_size!(
        OP,
        "attention_backward",
        dtype,
        cut.size,
        ["attention_queries_32", "attention_queries_64", "attention_queries_80", "attention_queries_128"]
    )?;
    let for_keys = kernel_of_size!(
        OP,
        "attention_backward",
        dtype,
        cut.size,
        ["attention_keys_32", "attention_keys_64", "attention_keys_80", "attention_keys_128"]
    )?;
    let keys = args.k.layout.shape()[1];
    // The kernel for keys reads the means that the one for queries writes.
    cuda.launch(OP, for_queries, cut.launch(OP, [images, heads, queries], 2, 0)?, &params)?;
    let known = cut.stages * cut.step * KNOWN;
    cuda.launch(OP, for_keys, cut.launch(OP, [images, heads, keys], 2, known)?, &params)
}
