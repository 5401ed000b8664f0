//! Launches of `kernels/attention_backward.cu`: gradients of attention.

use transdiff_core::Result;
use transdiff_core::backend::{AttentionArgs, AttentionGrads, qkv_layouts};

use crate::attention::{AttentionProblem, AttentionTiling, Heads, kernel_of_size};
use crate::device::{Address, Cuda, In};
use crate::driver::Params;

const OP: &str = "attention_backward";

/// `AttentionBackwardParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionBackwardParams {
    problem: AttentionProblem,
    y: Heads,
    dy: Heads,
    dq: Heads,
    dk: Heads,
    dv: Heads,
    lse: u64,
    delta: u64,
}

// SAFETY: same layout as `AttentionBackwardParams` in attention_backward.cu.
unsafe impl Params for AttentionBackwardParams {}

/// Bytes of `QueryState` in the kernel for keys: log-sum-exp, delta and visible length of a query.
const QUERY_STATE: usize = 12;

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
    let [dq, dk, dv] = match grads {
        AttentionGrads::Separate { dq, dk, dv } => [dq, dk, dv].map(|x| Heads::new(&x, x.layout)),
        AttentionGrads::Joint(joint) => qkv_layouts(joint.layout).map(|layout| {
            Heads::new(&In { buffer: joint.buffer, layout: &layout, dtype: joint.dtype }, &layout)
        }),
    };
    let problem = AttentionProblem::new(OP, &args, &[y, dy, dq, dk, dv])?;
    let deltas = cuda.scratch(OP, images * heads * queries * size_of::<f32>())?;
    let (lse, delta) = (lse.address(), deltas.address());
    let params = AttentionBackwardParams { problem, y, dy, dq, dk, dv, lse, delta };

    let (dtype, tiling) = (args.q.dtype, AttentionTiling::new(args.q.dtype, size));
    let for_queries = kernel_of_size!(
        OP,
        "attention_backward",
        dtype,
        tiling.size,
        [
            "attention_backward_queries_32",
            "attention_backward_queries_64",
            "attention_backward_queries_80",
            "attention_backward_queries_128"
        ]
    )?;
    let for_keys = kernel_of_size!(
        OP,
        "attention_backward",
        dtype,
        tiling.size,
        [
            "attention_backward_keys_32",
            "attention_backward_keys_64",
            "attention_backward_keys_80",
            "attention_backward_keys_128"
        ]
    )?;
    let keys = args.k.layout.shape()[1];
    // The kernel for keys reads the deltas that the one for queries writes.
    cuda.launch_kernel(OP, for_queries, tiling.launch_config(OP, [images, heads, queries], 2, 0)?, &params)?;
    let query_states = tiling.stages * tiling.step * QUERY_STATE;
    cuda.launch_kernel(
        OP,
        for_keys,
        tiling.launch_config(OP, [images, heads, keys], 2, query_states)?,
        &params,
    )
}
