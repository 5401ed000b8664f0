//! Convolution of images: how the output is cut into tiles, and which kernel serves.
//!
//! All kernels add a pixel's products in the same order, so that how a tensor is cut changes no bit.

use transdiff_core::backend::{ConvArgs, Resample};
use transdiff_core::{DType, Error, Result};

use crate::device::{Address, Cuda, Out, address_of, aligned};
use crate::driver::{Kernel, Launch, Params};

const OP: &str = "conv2d";

/// Bytes of a chunk of channels, and of a pixel of a patch with what keeps it apart from the next.
const CHUNK: usize = 64;
const PIXEL: usize = CHUNK + 16;
/// Slices of the weights in shared memory.
const STAGES: usize = 4;
/// What sides and channels must not exceed: kernels count positions in 32 bits.
const LIMIT: usize = 1 << 30;
/// Blocks of the second axis of a grid, which are images.
const IMAGES: usize = u16::MAX as usize;

/// `ConvParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ConvParams {
    x: u64,
    w: u64,
    b: u64,
    map: u64,
    residual: u64,
    y: u64,
    image: u64,
    row: u64,
    pixel: u64,
    first_image: u64,
    height: i32,
    width: i32,
    channels: i32,
    to_height: i32,
    to_width: i32,
    outputs: i32,
    kernel: i32,
    step: i32,
    before: i32,
    shift: i32,
    tile_bits: i32,
    across: i32,
    patch_width: i32,
    patch_pixels: i32,
    columns: i32,
    silu: u32,
    vector_in: u32,
    vector_out: u32,
}

// SAFETY: the struct of kernels/conv.cuh.
unsafe impl Params for ConvParams {}

/// The kernels: each has its tile.
#[derive(Clone, Copy, Debug)]
enum Tile {
    Wide,
    /// For little work, and for patches that are large.
    Small,
    /// For few outputs.
    Narrow,
}

impl Tile {
    /// Positions and output channels.
    fn size(self) -> [usize; 2] {
        match self {
            Self::Wide => [128, 128],
            Self::Small => [64, 64],
            Self::Narrow => [128, 16],
        }
    }

    fn kernel(self, dtype: DType) -> Result<Kernel> {
        match self {
            Self::Wide => kernel!(OP, "conv", "conv_wide", dtype),
            Self::Small => kernel!(OP, "conv", "conv_small", dtype),
            Self::Narrow => kernel!(OP, "conv", "conv_narrow", dtype),
        }
    }
}

/// What positions of the output see of the input. Sides are [height, width].
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: [usize; 2],
    to: [usize; 2],
    /// Pixels from a row, and from a column, of the input to the next.
    strides: [usize; 2],
    kernel: usize,
    /// Position `at` sees row (step·at + tap - before) >> shift through row `tap` of the kernel; columns likewise.
    step: usize,
    before: usize,
    shift: usize,
}

impl Seen {
    fn new([height, width]: [usize; 2], kernel: usize, resample: Resample) -> Self {
        let from = [height, width];
        let same =
            Self { from, to: from, strides: [width, 1], kernel, step: 1, before: kernel / 2, shift: 0 };
        match (resample, kernel) {
            // Rows do not matter then.
            (Resample::Same, 1) if height.saturating_mul(width) <= LIMIT => {
                Self { from: [1, height * width], to: [1, height * width], ..same }
            }
            (Resample::Same, _) => same,
            (Resample::Double, _) => Self { to: from.map(|n| 2 * n), shift: 1, ..same },
            // Only every second pixel is looked at.
            (Resample::Halve, 1) => {
                let half = from.map(|n| n / 2);
                Self { from: half, to: half, strides: [2 * width, 2], ..same }
            }
            (Resample::Halve, _) => Self { to: from.map(|n| n / 2), step: 2, before: 0, ..same },
        }
    }

    /// Pixels that `n` positions in a row see, from an even position on; `n` is even where sides are doubled.
    fn span(&self, n: usize) -> usize {
        let before = self.before.div_ceil(1 << self.shift);
        before + ((self.step * (n - 1) + self.kernel - 1 - self.before) >> self.shift) + 1
    }

    /// The best cut into tiles of `positions`.
    fn cut(&self, positions: usize) -> Cut {
        let one_row = self.to[0] == 1 && self.kernel == 1 && self.shift == 0;
        let widths = if one_row { &[positions][..] } else { &[8, 16, 32] };
        let cuts = widths.iter().map(|&width| {
            let tile = [positions / width, width];
            let [down, across] = [self.to[0].div_ceil(tile[0]), self.to[1].div_ceil(width)];
            Cut { width, tiles: [down, across], patch: tile.map(|n| self.span(n)) }
        });
        cuts.min_by_key(|cut| (cut.count(), cut.patch[0] * cut.patch[1])).expect("there are widths")
    }
}

/// An image in tiles.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Columns of a tile, a power of two.
    width: usize,
    /// Tiles below and beside each other.
    tiles: [usize; 2],
    /// Height and width of what a tile sees.
    patch: [usize; 2],
}

impl Cut {
    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// Bytes of shared memory: slices of weights and patches, and in their place the results at last.
    fn shared(&self, [positions, outputs]: [usize; 2], size: usize, kernel: usize) -> usize {
        let slices = STAGES * (CHUNK / size) * (outputs * size + 16);
        let patches = if kernel == 1 { STAGES } else { 2 } * self.patch[0] * self.patch[1] * PIXEL;
        (slices + patches).max(positions * (outputs + 8) * size_of::<f32>())
    }
}

fn choose(cuda: &Cuda, seen: &Seen, images: usize, outputs: usize) -> Tile {
    // What a tile sees is four times as large where sides are halved.
    if seen.step == 2 {
        return Tile::Small;
    }
    if outputs <= Tile::Narrow.size()[1] {
        return Tile::Narrow;
    }
    let [positions, columns] = Tile::Wide.size();
    let blocks = images.saturating_mul(seen.cut(positions).count() * outputs.div_ceil(columns));
    if outputs <= Tile::Small.size()[1] || blocks < cuda.multiprocessors() as usize {
        return Tile::Small;
    }
    Tile::Wide
}

/// `n` as kernels count.
fn counted(args: &ConvArgs<'_, Cuda>, n: usize) -> Result<i32> {
    let beyond = || Error::Shape {
        op: OP,
        expected: format!("sides and channels of at most {LIMIT}"),
        got: args.x.layout.shape().to_vec(),
    };
    i32::try_from(n).ok().filter(|&n| n as usize <= LIMIT).ok_or_else(beyond)
}

/// Whether `n` numbers a row and these addresses allow 16 bytes at a time.
fn vectors(dtype: DType, n: usize, addresses: &[u64]) -> u32 {
    (n * dtype.size()).is_multiple_of(16) as u32 & aligned(addresses) as u32
}

fn params(
    args: &ConvArgs<'_, Cuda>,
    seen: &Seen,
    cut: &Cut,
    columns: usize,
    y: &Out<'_>,
) -> Result<ConvParams> {
    let (channels, outputs) = (args.x.layout.shape()[3], args.w.layout.shape()[3]);
    let [x, w, b, y] = [args.x.address(), args.w.address(), args.b.address(), y.address()];
    let map = address_of(args.scale_shift.as_ref().map(|(map, _)| map));
    let residual = address_of(args.residual.as_ref());
    let count = |n| counted(args, n);
    let ([height, width], [to_height, to_width]) = (seen.from, seen.to);
    Ok(ConvParams {
        x,
        w,
        b,
        map,
        residual,
        y,
        image: args.x.layout.shape()[1..].iter().product::<usize>() as u64,
        row: (seen.strides[0] * channels) as u64,
        pixel: (seen.strides[1] * channels) as u64,
        first_image: 0,
        height: count(height)?,
        width: count(width)?,
        channels: count(channels)?,
        to_height: count(to_height)?,
        to_width: count(to_width)?,
        outputs: count(outputs)?,
        kernel: count(seen.kernel)?,
        step: count(seen.step)?,
        before: count(seen.before)?,
        shift: count(seen.shift)?,
        tile_bits: cut.width.trailing_zeros() as i32,
        across: count(cut.tiles[1])?,
        patch_width: count(cut.patch[1])?,
        patch_pixels: count(cut.patch[0] * cut.patch[1])?,
        columns: count(columns)?,
        silu: args.scale_shift.is_some_and(|(_, silu)| silu) as u32,
        vector_in: vectors(args.x.dtype, channels, &[x, map]),
        vector_out: vectors(args.x.dtype, outputs, &[w, b, residual, y]),
    })
}

pub(crate) fn forward(cuda: &Cuda, args: ConvArgs<'_, Cuda>, y: Out<'_>) -> Result<()> {
    if y.layout.numel() == 0 {
        return Ok(());
    }
    let &[images, height, width, _] = args.x.layout.shape() else { unreachable!("core checks the rank") };
    let (dtype, kernel, outputs) = (args.x.dtype, args.w.layout.shape()[0], args.w.layout.shape()[3]);
    let seen = Seen::new([height, width], kernel, args.resample);
    let tile = choose(cuda, &seen, images, outputs);
    let cut = seen.cut(tile.size()[0]);
    let columns = outputs.div_ceil(tile.size()[1]);
    let blocks = counted(&args, cut.count().saturating_mul(columns))? as u32;
    let mut params = params(&args, &seen, &cut, columns, &y)?;
    let shared = cut.shared(tile.size(), dtype.size(), kernel) as u32;
    let block = if dtype == DType::BF16 { 128 } else { 256 };
    for first in (0..images).step_by(IMAGES) {
        params.first_image = first as u64;
        let grid = [blocks, IMAGES.min(images - first) as u32, 1];
        cuda.launch(OP, tile.kernel(dtype)?, Launch { grid, block, shared }, &params)?;
    }
    Ok(())
}
