//! Launches of `kernels/attention.cu`.

use transdiff_core::backend::{AttentionArgs, Storage};
use transdiff_core::{DType, Error, Layout, Result};

use crate::device::{Address, Cuda, DropoutParams, Out, address_of, aligned};
use crate::driver::{Launch, Params};
use crate::softmax;

const OP: &str = "attention";

/// Head sizes that kernels are made for; others take the next larger, with zeros.
const SIZES: [usize; 4] = [32, 64, 80, 128];
/// Block ends that a launch carries.
const MAX_ENDS: usize = 512;

/// The kernel of a head size among [`SIZES`].
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

/// The struct `Heads` of the kernels.
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

    /// Whether every row begins at a multiple of 16 bytes, for numbers of which 16 bytes hold `lanes`.
    fn is_aligned(&self, lanes: u64) -> bool {
        aligned(&[self.address]) && self.strides.iter().all(|s| s % lanes == 0)
    }
}

/// The struct `Attention` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    q: Heads,
    k: Heads,
    v: Heads,
    heads: u32,
    queries: u32,
    keys: u32,
    size: u32,
    scale: f32,
    vectors: u32,
    dropout: DropoutParams,
    ends: u32,
    end: [u32; MAX_ENDS],
}

impl Problem {
    /// `others` are the further tensors that the kernel reads and writes in rows.
    pub(crate) fn new(op: &'static str, args: &AttentionArgs<'_, Cuda>, others: &[Heads]) -> Result<Self> {
        let (shape, keys) = (args.q.layout.shape(), args.k.layout.shape()[1]);
        if shape[3] > SIZES[3] {
            return Err(Error::shape(op, format!("heads of at most {} numbers", SIZES[3]), shape));
        }
        let blocks = args.segment_ends.unwrap_or_default();
        if blocks.len() > MAX_ENDS {
            return Err(Error::argument("segment_ends", format!("at most {MAX_ENDS} ends"), blocks.len()));
        }
        let mut end = [0; MAX_ENDS];
        for (end, &block) in end.iter_mut().zip(blocks) {
            *end = narrowed(op, block)?;
        }
        let [q, k, v] = [&args.q, &args.k, &args.v].map(|x| Heads::new(x, x.layout));
        let lanes = 16 / args.q.dtype.size();
        let aligned = [q, k, v].iter().chain(others).all(|heads| heads.is_aligned(lanes as u64));
        Ok(Self {
            q,
            k,
            v,
            heads: narrowed(op, shape[2])?,
            queries: narrowed(op, shape[1])?,
            keys: narrowed(op, keys)?,
            size: shape[3] as u32,
            scale: args.scale as f32,
            vectors: u32::from(aligned && shape[3].is_multiple_of(lanes)),
            dropout: DropoutParams::new(args.dropout),
            ends: blocks.len() as u32,
            end,
        })
    }
}

/// A size as kernels take it.
pub(crate) fn narrowed(op: &'static str, n: usize) -> Result<u32> {
    match i32::try_from(n) {
        Ok(n) => Ok(n as u32),
        Err(_) => Err(Error::Backend { op, message: format!("{n} is more than a launch can count") }),
    }
}

/// How the kernels of a type and head size cut their work, in the words of `kernels/attention_bf16.cuh` and
/// `kernels/attention_f32.cuh`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// One of [`SIZES`].
    pub(crate) size: usize,
    threads: u32,
    /// Rows of a block, and of the tiles that it passes over.
    pub(crate) rows: usize,
    pub(crate) step: usize,
    /// Tiles of a kind at a time.
    pub(crate) stages: usize,
    /// Bytes of a row of a tile, and of what else shared memory holds.
    pitch: usize,
    other: usize,
}

impl Cut {
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

    /// A launch for `images` images of `heads` heads with `all` rows each, of a kernel that has `kept` tensors of a
    /// block's rows and `extra` bytes in shared memory, and passes over two others. With two stages, the second lies where
    /// the rows are until they are in registers.
    pub(crate) fn launch(
        &self,
        op: &'static str,
        [images, heads, all]: [usize; 3],
        kept: usize,
        extra: usize,
    ) -> Result<Launch> {
        let blocks = all.div_ceil(self.rows).saturating_mul(heads).saturating_mul(images);
        let stage = 2 * self.step;
        let rows = stage + (kept * self.rows).max((self.stages - 1) * stage);
        let shared = rows * self.pitch + self.other + extra;
        Ok(Launch { grid: [narrowed(op, blocks)?, 1, 1], block: self.threads, shared: shared as u32 })
    }
}

/// The struct `AttentionParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionParams {
    problem: Problem,
    y: Heads,
    lse: u64,
}

// SAFETY: the struct of the kernel.
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
    let problem = Problem::new(OP, &args, &[y])?;
    let (dtype, cut) = (args.q.dtype, Cut::new(args.q.dtype, size));
    let kernel = kernel_of_size!(
        OP,
        "attention",
        dtype,
        cut.size,
        ["attention_32", "attention_64", "attention_80", "attention_128"]
    )?;
    let launch = cut.launch(OP, [images, heads, queries], 1, 0)?;
    cuda.launch(OP, kernel, launch, &AttentionParams { problem, y, lse: address_of(lse.as_ref()) })
}
