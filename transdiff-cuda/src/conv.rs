//! Launches of `kernels/conv.cu`: convolution of images, its tiling and the choice of a kernel.
//!
//! All kernels add the products of a pixel in the same order, so results are bitwise identical for every tiling.

use transdiff_core::backend::{ConvArgs, Resample};
use transdiff_core::{DType, Error, Result};

use crate::device::{Address, Cuda, Out, address_of, aligned};
use crate::driver::{Kernel, LaunchConfig, Params};

const OP: &str = "conv2d";

/// Bytes of a chunk of channels, and of a pixel of a patch with padding against bank conflicts.
const CHUNK: usize = 64;
const PIXEL: usize = CHUNK + 16;
/// Slices of the weights in shared memory: stages of the pipeline.
const STAGES: usize = 4;
/// Maximum of sides and channels: kernels compute positions in 32 bits.
const LIMIT: usize = 1 << 30;
/// Maximum images per launch: the second axis of the grid.
const IMAGES: usize = u16::MAX as usize;

/// `ConvParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ConvParams {
    x: u64,
    w: u64,
    b: u64,
    scale_shift: u64,
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
    stride: i32,
    padding: i32,
    upsample_shift: i32,
    tile_bits: i32,
    tiles_per_row: i32,
    patch_width: i32,
    patch_pixels: i32,
    /// Blocks along the output channels.
    blocks_per_tile: i32,
    silu: u32,
    vector_in: u32,
    vector_out: u32,
}

// SAFETY: same layout as `ConvParams` in conv.cuh.
unsafe impl Params for ConvParams {}

/// The kernels, by their tile.
#[derive(Clone, Copy, Debug)]
enum Tile {
    Wide,
    /// For small outputs, and for large patches.
    Small,
    /// For few output channels.
    Narrow,
}

impl Tile {
    /// Positions and output channels of a tile.
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

/// Map from output positions to input pixels. Sides are [height, width].
#[derive(Clone, Copy, Debug)]
struct ConvGeometry {
    from: [usize; 2],
    to: [usize; 2],
    /// Pixels between consecutive rows, and columns, of the input.
    strides: [usize; 2],
    kernel: usize,
    /// Output row `at` reads input row (stride·at + tap − padding) >> upsample_shift with kernel row `tap`; columns
    /// alike.
    stride: usize,
    padding: usize,
    upsample_shift: usize,
}

impl ConvGeometry {
    fn new([height, width]: [usize; 2], kernel: usize, resample: Resample) -> Self {
        let from = [height, width];
        let same = Self {
            from,
            to: from,
            strides: [width, 1],
            kernel,
            stride: 1,
            padding: kernel / 2,
            upsample_shift: 0,
        };
        match (resample, kernel) {
            // A 1×1 kernel does not distinguish rows.
            (Resample::Same, 1) if height.saturating_mul(width) <= LIMIT => {
                Self { from: [1, height * width], to: [1, height * width], ..same }
            }
            (Resample::Same, _) => same,
            (Resample::Double, _) => Self { to: from.map(|n| 2 * n), upsample_shift: 1, ..same },
            // Only every second pixel is read.
            (Resample::Halve, 1) => {
                let half = from.map(|n| n / 2);
                Self { from: half, to: half, strides: [2 * width, 2], ..same }
            }
            (Resample::Halve, _) => Self { to: from.map(|n| n / 2), stride: 2, padding: 0, ..same },
        }
    }

    /// Input pixels that `n` consecutive positions read, from an even position on; `n` is even if sides are doubled.
    fn span(&self, n: usize) -> usize {
        let padding = self.padding.div_ceil(1 << self.upsample_shift);
        padding + ((self.stride * (n - 1) + self.kernel - 1 - self.padding) >> self.upsample_shift) + 1
    }

    /// The tiling of `positions` positions per tile with the fewest tiles, then the smallest patch.
    fn tiling(&self, positions: usize) -> ImageTiling {
        let one_row = self.to[0] == 1 && self.kernel == 1 && self.upsample_shift == 0;
        let widths = if one_row { &[positions][..] } else { &[8, 16, 32] };
        let tilings = widths.iter().map(|&width| {
            let tile = [positions / width, width];
            let [down, tiles_per_row] = [self.to[0].div_ceil(tile[0]), self.to[1].div_ceil(width)];
            ImageTiling { width, tiles: [down, tiles_per_row], patch: tile.map(|n| self.span(n)) }
        });
        tilings
            .min_by_key(|tiling| (tiling.count(), tiling.patch[0] * tiling.patch[1]))
            .expect("there are widths")
    }
}

/// Tiling of an image.
#[derive(Clone, Copy, Debug)]
struct ImageTiling {
    /// Columns of a tile, a power of two.
    width: usize,
    /// Number of tiles, down and across.
    tiles: [usize; 2],
    /// Height and width of a patch: the input pixels that a tile reads.
    patch: [usize; 2],
}

impl ImageTiling {
    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// Bytes of shared memory: slices of weights and patches, later overwritten by the results.
    fn shared(&self, [positions, outputs]: [usize; 2], size: usize, kernel: usize) -> usize {
        let slices = STAGES * (CHUNK / size) * (outputs * size + 16);
        let patches = if kernel == 1 { STAGES } else { 2 } * self.patch[0] * self.patch[1] * PIXEL;
        (slices + patches).max(positions * (outputs + 8) * size_of::<f32>())
    }
}

fn choose_tile(cuda: &Cuda, geometry: &ConvGeometry, images: usize, outputs: usize) -> Tile {
    // The patch of a tile is four times as large if sides are halved.
    if geometry.stride == 2 {
        return Tile::Small;
    }
    if outputs <= Tile::Narrow.size()[1] {
        return Tile::Narrow;
    }
    let [positions, columns] = Tile::Wide.size();
    let blocks = images.saturating_mul(geometry.tiling(positions).count() * outputs.div_ceil(columns));
    if outputs <= Tile::Small.size()[1] || blocks < cuda.multiprocessors() as usize {
        return Tile::Small;
    }
    Tile::Wide
}

/// Converts a side or a number of channels to the 32 bits of the kernels.
fn size_i32(args: &ConvArgs<'_, Cuda>, n: usize) -> Result<i32> {
    let too_large = || Error::Shape {
        op: OP,
        expected: format!("sides and channels of at most {LIMIT}"),
        got: args.x.layout.shape().to_vec(),
    };
    i32::try_from(n).ok().filter(|&n| n as usize <= LIMIT).ok_or_else(too_large)
}

/// 1 if rows of `n` elements at these addresses can be accessed 16 bytes at a time.
fn vector_access(dtype: DType, n: usize, addresses: &[u64]) -> u32 {
    (n * dtype.size()).is_multiple_of(16) as u32 & aligned(addresses) as u32
}

fn params(
    args: &ConvArgs<'_, Cuda>,
    geometry: &ConvGeometry,
    tiling: &ImageTiling,
    blocks_per_tile: usize,
    y: &Out<'_>,
) -> Result<ConvParams> {
    let (channels, outputs) = (args.x.layout.shape()[3], args.w.layout.shape()[3]);
    let [x, w, b, y] = [args.x.address(), args.w.address(), args.b.address(), y.address()];
    let scale_shift = address_of(args.scale_shift.as_ref().map(|(scale_shift, _)| scale_shift));
    let residual = address_of(args.residual.as_ref());
    let count = |n| size_i32(args, n);
    let ([height, width], [to_height, to_width]) = (geometry.from, geometry.to);
    Ok(ConvParams {
        x,
        w,
        b,
        scale_shift,
        residual,
        y,
        image: args.x.layout.shape()[1..].iter().product::<usize>() as u64,
        row: (geometry.strides[0] * channels) as u64,
        pixel: (geometry.strides[1] * channels) as u64,
        first_image: 0,
        height: count(height)?,
        width: count(width)?,
        channels: count(channels)?,
        to_height: count(to_height)?,
        to_width: count(to_width)?,
        outputs: count(outputs)?,
        kernel: count(geometry.kernel)?,
        stride: count(geometry.stride)?,
        padding: count(geometry.padding)?,
        upsample_shift: count(geometry.upsample_shift)?,
        tile_bits: tiling.width.trailing_zeros() as i32,
        tiles_per_row: count(tiling.tiles[1])?,
        patch_width: count(tiling.patch[1])?,
        patch_pixels: count(tiling.patch[0] * tiling.patch[1])?,
        blocks_per_tile: count(blocks_per_tile)?,
        silu: args.scale_shift.is_some_and(|(_, silu)| silu) as u32,
        vector_in: vector_access(args.x.dtype, channels, &[x, scale_shift]),
        vector_out: vector_access(args.x.dtype, outputs, &[w, b, residual, y]),
    })
}

pub(crate) fn forward(cuda: &Cuda, args: ConvArgs<'_, Cuda>, y: Out<'_>) -> Result<()> {
    if y.layout.numel() == 0 {
        return Ok(());
    }
    let &[images, height, width, _] = args.x.layout.shape() else { unreachable!("core checks the rank") };
    let (dtype, kernel, outputs) = (args.x.dtype, args.w.layout.shape()[0], args.w.layout.shape()[3]);
    let geometry = ConvGeometry::new([height, width], kernel, args.resample);
    let tile = choose_tile(cuda, &geometry, images, outputs);
    let tiling = geometry.tiling(tile.size()[0]);
    let blocks_per_tile = outputs.div_ceil(tile.size()[1]);
    let blocks = size_i32(&args, tiling.count().saturating_mul(blocks_per_tile))? as u32;
    let mut params = params(&args, &geometry, &tiling, blocks_per_tile, &y)?;
    let shared = tiling.shared(tile.size(), dtype.size(), kernel) as u32;
    let block = if dtype == DType::BF16 { 128 } else { 256 };
    for first in (0..images).step_by(IMAGES) {
        params.first_image = first as u64;
        let grid = [blocks, IMAGES.min(images - first) as u32, 1];
        cuda.launch_kernel(OP, tile.kernel(dtype)?, LaunchConfig { grid, block, shared }, &params)?;
    }
    Ok(())
}
