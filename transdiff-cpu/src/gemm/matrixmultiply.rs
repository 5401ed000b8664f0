//! Products by the crate matrixmultiply, in single and double precision on any processor.
//!
//! The crate is a complete GEMM: it packs both operands and blocks over k by itself, and sums in the order that
//! [`MicroKernel`] requires. To the driver it is a kernel with panels of any width and blocks of any depth.

use std::marker::PhantomData;

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};

/// Largest number of columns per panel.
const MAX_PANEL: usize = 480;

/// The kernel of type `T`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MatrixMultiply<T>(PhantomData<T>);

macro_rules! matrixmultiply_kernel {
    ($T:ty, $gemm:path) => {
        impl MicroKernel for MatrixMultiply<$T> {
            type Left = $T;
            type Right = $T;
            type Accumulator = $T;
            type Output = $T;

            /// A multiple of the crate's tiles, which are 4 to 16 wide.
            const ALIGNMENT: usize = 48;
            const DEPTH: usize = usize::MAX;

            /// Few enough columns for the scratch memory of a B that is converted on the way.
            fn panel_width(&self, remaining: usize) -> usize {
                remaining.min(MAX_PANEL)
            }

            unsafe fn multiply(&self, m: usize, a: Left<$T>, b: Panel<$T>, sums: Sums<$T>) {
                let beta = if sums.accumulate { 1.0 } else { 0.0 };
                let [[ra, ca], [rb, cb]] = [a.strides, b.strides].map(|s| s.map(|x| x as isize));
                let (k, n, rc) = (b.depth, b.width, sums.stride as isize);
                // SAFETY: the callee needs what the caller promises.
                unsafe { $gemm(m, k, n, 1.0, a.start, ra, ca, b.start, rb, cb, beta, sums.start, rc, 1) }
            }

            fn convert(&self, _: [usize; 2], sums: &[$T], out: &mut [$T]) {
                out.copy_from_slice(sums);
            }
        }
    };
}

matrixmultiply_kernel!(f32, matrixmultiply::sgemm);
matrixmultiply_kernel!(f64, matrixmultiply::dgemm);
