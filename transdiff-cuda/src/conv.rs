//! Launches of `kernels/conv.cu`: convolution of images, its tiling and the choice of a kernel.
//!
//! All kernels add the products of a pixel in the same order, so results are bitwise identical for every tiling.

use transdiff_core::backend::{ConvArgs, Windows};
use transdiff_core::{DType, Error, Result};

use crate::device::{Address, Cuda, Out, address_of, aligned};
use crate::driver::{Kernel, LaunchConfig, Params};

const OP: &str = "conv2d";

/// Bytes of a chunk of channels, and of a pixel of a patch with padding against bank conflicts.
const CHUNK: usize = 64;
const PIXEL: usize = CHUNK + 16;
/// Slices of the weights in shared memory: stages of the pipeline.
const STAGES: usize = 4;
/// Pixels of a patch at most: two of them leave room in shared memory for the slices, and for a second block.
const PATCH: usize = 448;
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
    kernel_height: i32,
    kernel_width: i32,
    stride_y: i32,
    stride_x: i32,
    padding_y: i32,
    padding_x: i32,
    upsample_shift: i32,
    patch_per_step: u32,
    tile_bits: i32,
    tiles_per_row: i32,
    patch_width: i32,
    patch_pixels: i32,
    /// Blocks along the output channels.
    blocks_per_tile: i32,
    silu: u32,
    relu: u32,
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

/// Map from output positions to input pixels. Pairs are of rows and columns.
#[derive(Clone, Copy, Debug)]
struct ConvGeometry {
    from: [usize; 2],
    to: [usize; 2],
    /// Pixels between consecutive rows, and columns, of the input.
    strides: [usize; 2],
    kernel: [usize; 2],
    /// Output row `at` reads input row (stride·at + tap − padding) >> upsample_shift with kernel row `tap`; columns
    /// alike.
    stride: [usize; 2],
    padding: [usize; 2],
    upsample_shift: usize,
}

impl ConvGeometry {
    fn new([height, width]: [usize; 2], windows: &Windows, doubled: bool) -> Self {
        let scale = if doubled { 2 } else { 1 };
        let count = |axis, side| windows.count(axis, scale * side).expect("core checks that a window fits");
        let general = Self {
            from: [height, width],
            to: [count(0, height), count(1, width)],
            strides: [width, 1],
            kernel: windows.kernel,
            stride: windows.stride,
            padding: windows.padding.map(|[before, _]| before),
            upsample_shift: scale - 1,
        };
        if windows.kernel != [1; 2] || windows.padding != [[0; 2]; 2] || doubled {
            return general;
        }
        let [rows, columns] = general.to;
        // A kernel of one pixel does not distinguish rows.
        if windows.stride == [1; 2] && rows.saturating_mul(columns) <= LIMIT {
            return Self { from: [1, rows * columns], to: [1, rows * columns], ..general };
        }
        // Only the pixels that are read exist.
        let strides = [windows.stride[0] * width, windows.stride[1]];
        Self { from: general.to, strides, stride: [1; 2], ..general }
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input pixels along an axis that `n` consecutive positions read, from an even position on; `n` is even if sides are
    /// doubled.
    fn span(&self, axis: usize, n: usize) -> usize {
        let last = self.stride[axis] * (n - 1) + self.kernel[axis] - 1;
        let pixel = |at: usize| (at as isize - self.padding[axis] as isize) >> self.upsample_shift;
        (pixel(last) - pixel(0)) as usize + 1
    }

    /// The tiling of `positions` positions per tile with the fewest tiles, then the smallest patch.
    fn tiling(&self, positions: usize) -> ImageTiling {
        let one_row = self.to[0] == 1 && self.taps() == 1 && self.upsample_shift == 0;
        let widths = if one_row { &[positions][..] } else { &[8, 16, 32] };
        let tilings = widths.iter().map(|&width| {
            let tile = [positions / width, width];
            let tiles = [self.to[0].div_ceil(tile[0]), self.to[1].div_ceil(width)];
            let patch = [self.span(0, tile[0]), self.span(1, tile[1])];
            // With few taps, more patches are in flight.
            let most = if self.taps() < STAGES - 1 { PATCH / 2 } else { PATCH };
            match patch[0].saturating_mul(patch[1]) <= most {
                true => ImageTiling { width, tiles, patch, patch_per_step: false },
                false => ImageTiling { width, tiles, patch: [positions, 1], patch_per_step: true },
            }
        });
        tilings
            .min_by_key(|tiling| (tiling.count(), tiling.patch_per_step, tiling.patch[0] * tiling.patch[1]))
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
    /// Height and width of a patch: the input pixels that a tile reads, through all taps or through one.
    patch: [usize; 2],
    /// Each step has a patch of its own.
    patch_per_step: bool,
}

impl ImageTiling {
    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// Bytes of shared memory: slices of weights and patches, later overwritten by the results.
    fn shared(&self, [positions, outputs]: [usize; 2], size: usize, taps: usize) -> usize {
        let slices = STAGES * (CHUNK / size) * (outputs * size + 16);
        let depth = if self.patch_per_step || taps < STAGES - 1 { STAGES } else { 2 };
        let patches = depth * self.patch[0] * self.patch[1] * PIXEL;
        (slices + patches).max(positions * (outputs + 8) * size_of::<f32>())
    }
}

fn choose_tile(cuda: &Cuda, geometry: &ConvGeometry, images: usize, outputs: usize) -> Tile {
    // The patch of a tile is four times as large with a stride of two.
    if geometry.stride != [1; 2] {
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
        kernel_height: count(geometry.kernel[0])?,
        kernel_width: count(geometry.kernel[1])?,
        stride_y: count(geometry.stride[0])?,
        stride_x: count(geometry.stride[1])?,
        padding_y: count(geometry.padding[0])?,
        padding_x: count(geometry.padding[1])?,
        upsample_shift: count(geometry.upsample_shift)?,
        patch_per_step: tiling.patch_per_step as u32,
        tile_bits: tiling.width.trailing_zeros() as i32,
        tiles_per_row: count(tiling.tiles[1])?,
        patch_width: count(tiling.patch[1])?,
        patch_pixels: count(tiling.patch[0] * tiling.patch[1])?,
        blocks_per_tile: count(blocks_per_tile)?,
        silu: args.scale_shift.is_some_and(|(_, silu)| silu) as u32,
        relu: args.relu as u32,
        vector_in: vector_access(args.x.dtype, channels, &[x, scale_shift]),
        vector_out: vector_access(args.x.dtype, outputs, &[w, b, residual, y]),
    })
}

pub(crate) fn forward(cuda: &Cuda, args: ConvArgs<'_, Cuda>, y: Out<'_>) -> Result<()> {
    if y.layout.numel() == 0 {
        return Ok(());
    }
    let &[images, height, width, _] = args.x.layout.shape() else { unreachable!("core checks the rank") };
    let (dtype, outputs) = (args.x.dtype, args.w.layout.shape()[3]);
    let geometry = ConvGeometry::new([height, width], &args.windows, args.doubled);
    let tile = choose_tile(cuda, &geometry, images, outputs);
    let tiling = geometry.tiling(tile.size()[0]);
    let blocks_per_tile = outputs.div_ceil(tile.size()[1]);
    let blocks = size_i32(&args, tiling.count().saturating_mul(blocks_per_tile))? as u32;
    let mut params = params(&args, &geometry, &tiling, blocks_per_tile, &y)?;
    let shared = tiling.shared(tile.size(), dtype.size(), geometry.taps()) as u32;
    let block = if dtype == DType::BF16 { 128 } else { 256 };
    for first in (0..images).step_by(IMAGES) {
        params.first_image = first as u64;
        let grid = [blocks, IMAGES.min(images - first) as u32, 1];
        cuda.launch_kernel(OP, tile.kernel(dtype)?, LaunchConfig { grid, block, shared }, &params)?;
    }
    Ok(())
}
