//! Packing of B into panels.

use std::ops::Range;

use super::micro_kernel::MicroKernel;
use super::operand::{Operand, Panel};

/// B of a product, panel by panel: a matrix in memory, or one that was packed in advance.
pub(crate) trait RightOperand<K: MicroKernel>: Copy + Send + Sync {
    /// Returns true if B has this shape.
    fn reaches(&self, shape: [usize; 2]) -> bool;

    /// Number of elements of scratch memory for a panel, in a product of this size (m, k, n).
    fn scratch_len(&self, kernel: &K, size: [usize; 3]) -> usize;

    /// The panel of these values of k and these columns as the kernel reads it: in place, or packed in `scratch`.
    ///
    /// # Safety
    /// B has these rows and columns; `scratch` has [`scratch_len`](Self::scratch_len) elements.
    unsafe fn panel(
        &self,
        kernel: &K,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &mut [K::Right],
    ) -> Panel<K::Right>;
}

impl<K: MicroKernel> RightOperand<K> for Operand<'_, K::Right> {
    fn reaches(&self, shape: [usize; 2]) -> bool {
        Operand::reaches(self, shape)
    }

    fn scratch_len(&self, kernel: &K, [m, k, _]: [usize; 3]) -> usize {
        kernel.packed_len(m, K::DEPTH.min(k), self.strides)
    }

    unsafe fn panel(
        &self,
        kernel: &K,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &mut [K::Right],
    ) -> Panel<K::Right> {
        let panel = Operand::panel(self, depth, columns);
        if scratch.is_empty() {
            return panel;
        }
        // SAFETY: this part of B, as the caller promises.
        unsafe { kernel.pack(panel, scratch) }
    }
}

/// Side of the squares that [`pack_strided`] copies, in elements: one cache line of f32.
const SQUARE: usize = 16;

/// Copies a panel of any strides so that its columns lie side by side and its rows `stride` apart, each element as `f`
/// returns it. Elements of `out` between the panel's width and `stride` are left as they are.
///
/// # Safety
/// `b` reaches all its elements.
#[inline(always)]
pub(super) unsafe fn pack_strided<T: Copy, S>(b: Panel<T>, stride: usize, out: &mut [S], f: impl Fn(T) -> S) {
    let [sk, sn] = b.strides;
    // Squares of one cache line: reading down a column and writing along a row both stay within few lines.
    for k0 in (0..b.depth).step_by(SQUARE) {
        for j0 in (0..b.width).step_by(SQUARE) {
            for k in k0..b.depth.min(k0 + SQUARE) {
                for j in j0..b.width.min(j0 + SQUARE) {
                    // SAFETY: element (k, j) of the panel, as the caller promises.
                    out[k * stride + j] = f(unsafe { *b.start.add(k * sk + j * sn) });
                }
            }
        }
    }
}
