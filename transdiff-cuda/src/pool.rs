//! Launches of `kernels/pool.cu`: pooling of images.

use transdiff_core::backend::{Pooling, Windows};
use transdiff_core::{Error, Result};

use crate::device::{Address, Cuda, In, Out, lanes, vectorizable};
use crate::driver::Params;
use crate::row_partition::RowPartition;

const OP: &str = "pool2d";
/// Pixels per thread.
const PIXELS: usize = 1;

/// `PoolParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct PoolParams {
    /// x, y.
    address: [u64; 2],
    partition: RowPartition,
    /// Height and width of x, then of y.
    sides: [i32; 4],
    /// Rows, then columns.
    kernel: [i32; 2],
    stride: [i32; 2],
    padding: [i32; 2],
    average: u32,
}

// SAFETY: same layout as `PoolParams` in pool.cu.
unsafe impl Params for PoolParams {}

pub(crate) fn forward(cuda: &Cuda, x: In<'_>, pooling: Pooling, windows: Windows, y: Out<'_>) -> Result<()> {
    let (&[_, height, width, channels], &[images, rows, columns, _]) = (x.layout.shape(), y.layout.shape())
    else {
        unreachable!("core checks the rank")
    };
    if y.layout.numel() == 0 {
        return Ok(());
    }
    // Kernels compute positions in 32 bits.
    let sizes = |sizes: [usize; 2]| -> Result<[i32; 2]> {
        let small = |n: usize| i32::try_from(n).ok().filter(|&n| n <= 1 << 30);
        match sizes.map(small) {
            [Some(a), Some(b)] => Ok([a, b]),
            _ => Err(Error::shape(OP, "sides, kernels and strides of at most 2^30", x.layout.shape())),
        }
    };
    let ([h, w], [to_h, to_w]) = (sizes([height, width])?, sizes([rows, columns])?);
    let lanes = lanes(x.dtype);
    let wide = vectorizable(&[x.address(), y.address()], channels, &[], lanes);
    let partition =
        RowPartition::new([1, images * rows * columns, channels], if wide { lanes } else { 1 }, PIXELS);
    let params = PoolParams {
        address: [x.address(), y.address()],
        partition,
        sides: [h, w, to_h, to_w],
        kernel: sizes(windows.kernel)?,
        stride: sizes(windows.stride)?,
        padding: sizes(windows.padding.map(|[before, _]| before))?,
        average: (pooling == Pooling::Average) as u32,
    };
    let kernel = vector_kernel!(OP, "pool", "pool", wide, x.dtype)?;
    cuda.launch_kernel(OP, kernel, partition.launch_config(), &params)
}
