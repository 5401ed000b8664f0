//! Launches of `kernels/norm.cu`: layer norm with affine and modulation.

use transdiff_core::Result;
use transdiff_core::backend::NormArgs;

use crate::device::{Address, Cuda, In, Out, address_of, lanes, vectorizable};
use crate::driver::{LaunchConfig, Params};

/// Channels per thread, in registers: `CHANNELS_PER_THREAD` of thread_group.cuh.
const CHANNELS: usize = 8;
/// Longest rows of warps with 8, 32 and 40 channels per thread: `NORM_WARP` of norm.cu and `NORM_BACKWARD_WARP` of
/// norm_backward.cu.
const WARP_ROWS: [usize; 3] = [32 * CHANNELS, 32 * 32, 32 * 40];
/// Warps per block: those of `ROW_THREADS` of thread_group.cuh.
const WARPS: usize = 4;
/// Largest block that holds a row in registers: `NORM_THREADS` of norm.cu.
const THREADS: usize = 1024;
/// Threads per longer row: `NORM_LONG_THREADS` of norm.cu.
const LONG_THREADS: u32 = 512;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct NormParams {
    /// x, y, stats, weight, bias, scale, shift.
    address: [u64; 7],
    strides: [u64; 2],
    rows: u64,
    per_group: u64,
    width: u32,
    eps: f32,
}

// SAFETY: same layout as `NormParams` in norm.cu.
unsafe impl Params for NormParams {}

/// The threads that share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadGroup {
    /// A warp needs no barriers; the published models' rows fit in its registers.
    Warp {
        /// Channels per thread.
        channels: usize,
    },
    Block,
    /// A block that reads the row more than once, because it does not fit in registers.
    LongRow,
}

impl ThreadGroup {
    /// Thread group for rows of `width` channels and blocks of at most `threads` threads.
    pub(crate) fn new(width: usize, threads: usize) -> Self {
        if let Some(longest) = WARP_ROWS.into_iter().find(|&longest| width <= longest) {
            Self::Warp { channels: longest / 32 }
        } else if width <= threads * CHANNELS {
            Self::Block
        } else {
            Self::LongRow
        }
    }

    /// Launch of `count` thread groups.
    pub(crate) fn launch_config(self, count: usize, width: usize) -> LaunchConfig {
        let (blocks, block) = match self {
            Self::Warp { .. } => (count.div_ceil(WARPS), 32 * WARPS as u32),
            Self::Block => (count, width.div_ceil(CHANNELS).next_multiple_of(32) as u32),
            Self::LongRow => (count, LONG_THREADS),
        };
        LaunchConfig { grid: [blocks as u32, 1, 1], block, shared: 0 }
    }
}

/// Elements between the vectors of consecutive groups; 0 if absent.
pub(crate) fn group_stride(view: Option<&In<'_>>) -> u64 {
    view.map_or(0, |view| view.layout.strides()[0] as u64)
}

pub(crate) fn forward(
    cuda: &Cuda,
    args: NormArgs<'_, Cuda>,
    y: Out<'_>,
    stats: Option<Out<'_>>,
) -> Result<()> {
    const OP: &str = "norm_modulate";
    let &[groups, per_group, width] = args.x.layout.shape() else { unreachable!("core checks the rank") };
    if width == 0 {
        return Ok(());
    }
    let (weight, bias) = args.affine.unzip();
    let (scale, shift) = args.modulation.unzip();
    let [weight_at, bias_at] = [weight, bias].map(|view| address_of(view.as_ref()));
    let [scale_at, shift_at] = [scale, shift].map(|view| address_of(view.as_ref()));
    let strides = [group_stride(scale.as_ref()), group_stride(shift.as_ref())];
    let (stream, dtype, rows) = (args.x.dtype, y.dtype, groups * per_group);
    let (x, y) = (args.x.address(), y.address());
    let addresses = [x, y, weight_at, bias_at, scale_at, shift_at];
    let wide = vectorizable(&addresses, width, &strides, lanes(dtype));
    let group = ThreadGroup::new(width, THREADS);
    let kernel = match group {
        ThreadGroup::Warp { channels: 8 } => {
            stream_kernel!(OP, "norm", "norm_warp_8", wide, stream, dtype)
        }
        ThreadGroup::Warp { channels: 32 } => {
            stream_kernel!(OP, "norm", "norm_warp_32", wide, stream, dtype)
        }
        ThreadGroup::Warp { .. } => stream_kernel!(OP, "norm", "norm_warp_40", wide, stream, dtype),
        ThreadGroup::Block => stream_kernel!(OP, "norm", "norm_block", wide, stream, dtype),
        ThreadGroup::LongRow => stream_kernel!(OP, "norm", "norm_long", wide, stream, dtype),
    };
    let params = NormParams {
        address: [x, y, address_of(stats.as_ref()), weight_at, bias_at, scale_at, shift_at],
        strides,
        rows: rows as u64,
        per_group: per_group as u64,
        width: width as u32,
        eps: args.eps as f32,
    };
    cuda.launch_kernel(OP, kernel?, group.launch_config(rows, width), &params)
}
