//! Group normalisation.

use transdiff_core::Result;

use crate::device::{Address, Cuda, In, Out};
use crate::driver::{Launch, Params};
use crate::norm::in_vectors;
use crate::tiles::Tiles;

/// Pixels of a chunk.
const PIXELS: usize = 64;
/// Threads of a group's block: `SUM_THREADS` of sums.cuh.
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SumsParams {
    /// x, sums.
    address: [u64; 2],
    tiles: Tiles,
}

// SAFETY: the fields of `GroupNormSumsParams` in group_norm.cu.
unsafe impl Params for SumsParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct MapParams {
    /// x, sums, weight, bias, map.
    address: [u64; 5],
    eps: f64,
    pixels: u64,
    channels: u64,
    groups: u32,
    per_chunk: u32,
    chunks: u32,
}

// SAFETY: the fields of `GroupNormMapParams` in group_norm.cu.
unsafe impl Params for MapParams {}

pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    affine: (In<'_>, In<'_>),
    groups: usize,
    eps: f64,
    map: Out<'_>,
) -> Result<()> {
    const OP: &str = "group_norm";
    let &[images, height, width, channels] = x.layout.shape() else { unreachable!("core checks the rank") };
    if channels == 0 {
        return Ok(());
    }
    let (pixels, lanes) = (height * width, 16 / x.dtype.size());
    let wide = in_vectors(&[x.address()], channels, &[], lanes);
    let tiles = Tiles::new([images, pixels, channels], if wide { lanes } else { 1 }, PIXELS);
    let sums = cuda.scratch(OP, tiles.chunks() * 2 * channels * size_of::<f32>())?;
    let params = SumsParams { address: [x.address(), sums.address()], tiles };
    let kernel = vector_kernel!(OP, "group_norm", "group_norm_sums", wide, x.dtype)?;
    cuda.launch(OP, kernel, tiles.launch(), &params)?;
    let params = MapParams {
        address: [x.address(), sums.address(), affine.0.address(), affine.1.address(), map.address()],
        eps,
        pixels: pixels as u64,
        channels: channels as u64,
        groups: groups as u32,
        per_chunk: PIXELS as u32,
        chunks: tiles.per_group() as u32,
    };
    let launch = Launch { grid: [(images * groups) as u32, 1, 1], block: THREADS, shared: 0 };
    cuda.launch(OP, kernel!(OP, "group_norm", "group_norm_map", x.dtype)?, launch, &params)
}
