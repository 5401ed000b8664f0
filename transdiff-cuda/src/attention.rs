//! Launches of `kernels/attention.cu`: tiled attention (FlashAttention-style).

use transdiff_core::backend::{AttentionArgs, Storage};
use transdiff_core::{DType, Error, Layout, Result};

use crate::device::{Address, Cuda, Out, address_of, aligned, lanes, size_u32};
use crate::driver::{LaunchConfig, Params};
use crate::softmax;

const OP: &str = "attention";

/// Head sizes that kernels are instantiated for; other sizes use the next larger one, padded with zeros.
const SIZES: [usize; 4] = [32, 64, 80, 128];
/// Maximum number of segment ends of a block-causal mask, which are kernel parameters.
const MAX_ENDS: usize = 512;

/// The kernel for a head size of [`SIZES`].
macro_rules! kernel_of_size {
    ($op:expr, $stem:literal, $dtype:expr, $size:expr, [$n32:literal, $n64:literal, $n80:literal, $n128:literal]) => {
        match $size {
            32 => kernel!($op, $stem, $n32, $dtype),
            64 => kernel!($op, $stem, $n64, $dtype),
            80 => kernel!($op, $stem, $n80, $dtype),
            _ => kernel!($op, $stem, $n128, $dtype),
        }
    };
}
pub(crate) use kernel_of_size;

/// `Heads` of the kernels: a tensor [B, N, H, E] with strides.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    address: u64,
    strides: [u64; 3],
}

impl Heads {
    pub(crate) fn new(view: &impl Address, layout: &Layout) -> Self {
        let s = layout.strides();
        Self { address: view.address(), strides: [s[0], s[1], s[2]].map(|s| s as u64) }
    }

    /// Returns whether every row is aligned to 16 bytes, which hold `lanes` elements.
    fn is_aligned(&self, lanes: u64) -> bool {
        aligned(&[self.address]) && self.strides.iter().all(|s| s % lanes == 0)
    }
}

/// `Attention` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionProblem {
    q: Heads,
    k: Heads,
    v: Heads,
    heads: u32,
    queries: u32,
    keys: u32,
    size: u32,
    scale: f32,
    vectors: u32,
    kept: u64,
    dropout_scale: f32,
    ends: u32,
    end: [u32; MAX_ENDS],
}

impl AttentionProblem {
    /// `others` are the tensors that the kernel accesses in rows beside q, k and v.
    pub(crate) fn new(op: &'static str, args: &AttentionArgs<'_, Cuda>, others: &[Heads]) -> Result<Self> {
        let (shape, keys) = (args.q.layout.shape(), args.k.layout.shape()[1]);
        if shape[3] > SIZES[3] {
            return Err(Error::shape(op, format!("head size of at most {}", SIZES[3]), shape));
        }
        let segment_ends = args.segment_ends.unwrap_or_default();
        if segment_ends.len() > MAX_ENDS {
            return Err(Error::argument(
                "segment_ends",
                format!("at most {MAX_ENDS} ends"),
                segment_ends.len(),
            ));
        }
        let mut end = [0; MAX_ENDS];
        for (end, &segment_end) in end.iter_mut().zip(segment_ends) {
            *end = size_u32(op, segment_end)?;
        }
        let [q, k, v] = [&args.q, &args.k, &args.v].map(|x| Heads::new(x, x.layout));
        let lanes = lanes(args.q.dtype);
        let aligned = [q, k, v].iter().chain(others).all(|heads| heads.is_aligned(lanes as u64));
        Ok(Self {
            q,
            k,
            v,
            heads: size_u32(op, shape[2])?,
            queries: size_u32(op, shape[1])?,
            keys: size_u32(op, keys)?,
            size: shape[3] as u32,
            scale: args.scale as f32,
            vectors: u32::from(aligned && shape[3].is_multiple_of(lanes)),
            kept: address_of(args.dropout.as_ref().map(|mask| &mask.kept)),
            dropout_scale: args.dropout.map_or(1.0, |mask| mask.scale),
            ends: segment_ends.len() as u32,
            end,
        })
    }
}

/// Tile sizes of the kernels for a type and head size, as in `kernels/attention_bf16.cuh` and
/// `kernels/attention_f32.cuh`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionTiling {
    /// Head size, one of [`SIZES`].
    pub(crate) size: usize,
    threads: u32,
    /// Rows per block, and rows per tile that it iterates over.
    pub(crate) rows: usize,
    pub(crate) step: usize,
    /// Pipeline stages: tiles of one tensor in shared memory.
    pub(crate) stages: usize,
    /// Bytes per row of a tile, and bytes of other shared memory.
    pitch: usize,
    other: usize,
}

impl AttentionTiling {
    pub(crate) fn new(dtype: DType, size: usize) -> Self {
        let size = SIZES.into_iter().find(|&s| s >= size).unwrap_or(SIZES[3]);
        if dtype == DType::BF16 {
            let step = if size <= 80 { 64 } else { 32 };
            return Self { size, threads: 128, rows: 64, step, stages: 2, pitch: 2 * (size + 8), other: 0 };
        }
        let rows = if size <= 64 { 64 } else { 32 };
        let other = 4 * rows * (rows + 4);
        Self { size, threads: 256, rows, step: rows, stages: 1, pitch: 4 * (size + 4), other }
    }

    /// Launch for `images` images of `heads` heads with `all` rows each. The kernel holds `held` tensors of a block's
    /// rows and `extra` bytes in shared memory, and iterates over two other tensors. With two stages, the second stage
    /// shares memory with the block's rows, which have been loaded to registers before it is filled.
    pub(crate) fn launch_config(
        &self,
        op: &'static str,
        [images, heads, all]: [usize; 3],
        held: usize,
        extra: usize,
    ) -> Result<LaunchConfig> {
        let blocks = all.div_ceil(self.rows).saturating_mul(heads).saturating_mul(images);
        let stage = 2 * self.step;
        let rows = stage + (held * self.rows).max((self.stages - 1) * stage);
        let shared = rows * self.pitch + self.other + extra;
        Ok(LaunchConfig { grid: [size_u32(op, blocks)?, 1, 1], block: self.threads, shared: shared as u32 })
    }
}

/// `AttentionParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionParams {
    problem: AttentionProblem,
    y: Heads,
    lse: u64,
}

// SAFETY: same layout as `AttentionParams` in attention.cu.
unsafe impl Params for AttentionParams {}

pub(crate) fn forward(
    cuda: &Cuda,
    args: AttentionArgs<'_, Cuda>,
    y: Out<'_>,
    lse: Option<Out<'_>>,
) -> Result<()> {
    let &[images, queries, heads, size] = args.q.layout.shape() else { unreachable!("core checks the rank") };
    if size > SIZES[3] && args.segment_ends.is_none() && args.dropout.is_none() && lse.is_none() {
        return if y.layout.numel() == 0 || args.k.layout.shape()[1] == 0 {
            cuda.fill(0.0, y)
        } else {
            softmax::attention(cuda, args, y)
        };
    }
    let y = Heads::new(&y, y.layout);
    let problem = AttentionProblem::new(OP, &args, &[y])?;
    let (dtype, tiling) = (args.q.dtype, AttentionTiling::new(args.q.dtype, size));
    let kernel = kernel_of_size!(
        OP,
        "attention",
        dtype,
        tiling.size,
        ["attention_32", "attention_64", "attention_80", "attention_128"]
    )?;
    let config = tiling.launch_config(OP, [images, heads, queries], 1, 0)?;
    cuda.launch_kernel(OP, kernel, config, &AttentionParams { problem, y, lse: address_of(lse.as_ref()) })
}
