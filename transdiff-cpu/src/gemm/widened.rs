//! Operands in bf16 for kernels in f32: widening is exact, so that products and sums are those of the kernel.
//!
//! A is widened as a whole, once for all threads; B panel by panel into scratch memory, where a kernel in f32 would pack it
//! too.

use std::ops::Range;

use half::bf16;
use transdiff_core::backend::Storage;
use transdiff_core::{DType, Result};

use super::micro_kernel::MicroKernel;
use super::operand::{Operand, Panel};
use super::pack::{RightOperand, pack_strided};
use crate::buffer::{Buffer, Stored};
use crate::device::Cpu;
use crate::view::{Float, load};

/// Rows of a packed panel begin at multiples of this number of elements: a vector of the widest registers.
const LANES: usize = 16;
/// Number of elements per task.
const CHUNK: usize = 1 << 14;

/// B in bf16 for a kernel in f32.
#[derive(Clone, Copy)]
pub(super) struct Widened<'a>(pub(super) Operand<'a, bf16>);

impl<K: MicroKernel<Right = f32>> RightOperand<K> for Widened<'_> {
    fn reaches(&self, shape: [usize; 2]) -> bool {
        self.0.reaches(shape)
    }

    fn scratch_len(&self, kernel: &K, [_, k, n]: [usize; 3]) -> usize {
        K::DEPTH.min(k) * kernel.panel_width(n).next_multiple_of(LANES)
    }

    unsafe fn panel(
        &self,
        _: &K,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &mut [f32],
    ) -> Panel<f32> {
        let stride = columns.len().next_multiple_of(LANES);
        // SAFETY: B has these rows and columns, as the caller promises.
        unsafe { widen(self.0.panel(depth.clone(), columns.clone()), stride, scratch) };
        Panel { start: scratch.as_ptr(), strides: [stride, 1], depth: depth.len(), width: columns.len() }
    }
}

simd! {
    /// Copies a panel of any strides so that its columns lie side by side and its rows `stride` apart.
    ///
    /// # Safety
    /// `b` reaches all its elements.
    unsafe fn widen(b: Panel<bf16>, stride: usize, out: &mut [f32]) {
        if b.strides[1] != 1 {
            // SAFETY: as the caller promises.
            return unsafe { pack_strided(b, stride, out, bf16::real) };
        }
        for (k, out) in out.chunks_exact_mut(stride).take(b.depth).enumerate() {
            // SAFETY: row k of the panel, as the caller promises.
            let row = unsafe { std::slice::from_raw_parts(b.start.add(k * b.strides[0]), b.width) };
            for (out, x) in out.iter_mut().zip(row) {
                *out = x.real();
            }
        }
    }
}

/// The elements of A in f32, in the same order.
pub(super) fn widen_left(cpu: &Cpu, shape: [usize; 2], a: Operand<'_, bf16>) -> Result<Buffer> {
    let data = &a.data[..a.extent(shape)];
    let mut wide = cpu.alloc(DType::F32, data.len())?;
    cpu.chunks(f32::slice_mut(&mut wide), CHUNK, data.len() / 8, |from, out| {
        load(&data[from..from + out.len()], out);
    });
    Ok(wide)
}
