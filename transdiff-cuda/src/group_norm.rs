//! Launches of `kernels/group_norm.cu`: group normalisation, as a scale and shift per image and channel.

use transdiff_core::Result;

use crate::device::{Address, Cuda, In, Out, lanes, vectorizable};
use crate::driver::{LaunchConfig, Params};
use crate::row_partition::RowPartition;

/// Pixels per chunk.
const PIXELS: usize = 64;
/// Threads per block, which computes one group: `SUM_THREADS` of block_sum.cuh.
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SumsParams {
    /// x, sums.
    address: [u64; 2],
    partition: RowPartition,
}

// SAFETY: same layout as `GroupNormSumsParams` in group_norm.cu.
unsafe impl Params for SumsParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ScaleShiftParams {
    /// x, sums, weight, bias, scale_shift.
    address: [u64; 5],
    eps: f64,
    pixels: u64,
    channels: u64,
    groups: u32,
    pixels_per_chunk: u32,
    chunks: u32,
}

// SAFETY: same layout as `GroupNormScaleShiftParams` in group_norm.cu.
unsafe impl Params for ScaleShiftParams {}

pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    affine: (In<'_>, In<'_>),
    groups: usize,
    eps: f64,
    scale_shift: Out<'_>,
) -> Result<()> {
    const OP: &str = "group_norm";
    let &[images, height, width, channels] = x.layout.shape() else { unreachable!("core checks the rank") };
    if channels == 0 {
        return Ok(());
    }
    let (pixels, lanes) = (height * width, lanes(x.dtype));
    let wide = vectorizable(&[x.address()], channels, &[], lanes);
    let partition = RowPartition::new([images, pixels, channels], if wide { lanes } else { 1 }, PIXELS);
    let sums = cuda.scratch(OP, partition.chunks() * 2 * channels * size_of::<f32>())?;
    let params = SumsParams { address: [x.address(), sums.address()], partition };
    let kernel = vector_kernel!(OP, "group_norm", "group_norm_sums", wide, x.dtype)?;
    cuda.launch_kernel(OP, kernel, partition.launch_config(), &params)?;
    let params = ScaleShiftParams {
        address: [x.address(), sums.address(), affine.0.address(), affine.1.address(), scale_shift.address()],
        eps,
        pixels: pixels as u64,
        channels: channels as u64,
        groups: groups as u32,
        pixels_per_chunk: PIXELS as u32,
        chunks: partition.chunks_per_group() as u32,
    };
    let launch = LaunchConfig { grid: [(images * groups) as u32, 1, 1], block: THREADS, shared: 0 };
    cuda.launch_kernel(OP, kernel!(OP, "group_norm", "group_norm_scale_shift", x.dtype)?, launch, &params)
}
