//! Layer norm with affine and modulation.

use transdiff_core::Result;
use transdiff_core::backend::NormArgs;

use crate::device::{Address, Cuda, In, Out, address_of, aligned};
use crate::driver::{Launch, Params};
pub(crate) use crate::norm_backward::backward;

/// Channels that a thread has in its registers: `ROW_NUMBERS` of rows.cuh.
const NUMBERS: usize = 8;
/// The longest row for a warp, eight of which are a block.
const WARP_ROW: usize = 32 * NUMBERS;
const WARPS: usize = 8;
/// The largest block that has a row in its registers: `NORM_THREADS` of norm.cu.
const THREADS: usize = 1024;
/// Threads for a row that is longer: `NORM_LONG_THREADS` of norm.cu.
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

// SAFETY: the fields of `NormParams` in norm.cu.
unsafe impl Params for NormParams {}

/// Who has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Team {
    Warp,
    Block,
    /// A block that reads it more than once.
    Long,
}

impl Team {
    /// For rows of `width` channels and blocks of at most `threads`.
    pub(crate) fn new(width: usize, threads: usize) -> Self {
        match width {
            ..=WARP_ROW => Self::Warp,
            _ if width <= threads * NUMBERS => Self::Block,
            _ => Self::Long,
        }
    }

    /// As many blocks as `count` teams are.
    pub(crate) fn launch(self, count: usize, width: usize) -> Launch {
        let (blocks, block) = match self {
            Self::Warp => (count.div_ceil(WARPS), 32 * WARPS as u32),
            Self::Block => (count, width.div_ceil(NUMBERS).next_multiple_of(32) as u32),
            Self::Long => (count, LONG_THREADS),
        };
        Launch { grid: [blocks as u32, 1, 1], block, shared: 0 }
    }
}

/// Elements from a group's row to the next's.
pub(crate) fn group_stride(view: Option<&In<'_>>) -> u64 {
    view.map_or(0, |view| view.layout.strides()[0] as u64)
}

/// Whether rows of `width` elements can be read in vectors of 16 bytes, at these addresses and these steps between them.
pub(crate) fn in_vectors(addresses: &[u64], width: usize, strides: &[u64], lanes: usize) -> bool {
    aligned(addresses)
        && width.is_multiple_of(lanes)
        && strides.iter().all(|stride| stride.is_multiple_of(lanes as u64))
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
    let (x, y) = (args.x.address(), y.address());
    let (dtype, rows) = (args.x.dtype, groups * per_group);
    let wide =
        in_vectors(&[x, y, weight_at, bias_at, scale_at, shift_at], width, &strides, 16 / dtype.size());
    let team = Team::new(width, THREADS);
    let kernel = match team {
        Team::Warp => vector_kernel!(OP, "norm", "norm_warp", wide, dtype),
        Team::Block => vector_kernel!(OP, "norm", "norm_block", wide, dtype),
        Team::Long => vector_kernel!(OP, "norm", "norm_long", wide, dtype),
    };
    let params = NormParams {
        address: [x, y, address_of(stats.as_ref()), weight_at, bias_at, scale_at, shift_at],
        strides,
        rows: rows as u64,
        per_group: per_group as u64,
        width: width as u32,
        eps: args.eps as f32,
    };
    cuda.launch(OP, kernel?, team.launch(rows, width), &params)
}
