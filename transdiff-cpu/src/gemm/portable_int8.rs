//! Products of 8-bit integers on any processor.

use super::operand::{Left, Panel, Sums};
use crate::int8_panels::{GROUP, PANEL};

/// Multiplies `m` rows of A by a panel.
///
/// # Safety
/// As [`MicroKernel::multiply`](super::MicroKernel::multiply) of the kernel for 8-bit integers.
pub(super) unsafe fn panel_rows(m: usize, a: Left<u8>, b: Panel<i8>, sums: Sums<i32>) {
    for i in 0..m {
        // SAFETY: whole groups of row i of A, whole vectors of the panel, and the columns of row i of the sums.
        let (a, panel, out) = unsafe {
            let groups = b.depth.div_ceil(GROUP);
            let a = std::slice::from_raw_parts(a.from(i, 0).start, groups * GROUP);
            let panel = std::slice::from_raw_parts(b.start, groups * b.strides[0]);
            (a, panel, std::slice::from_raw_parts_mut(sums.from(i, 0).start, b.width))
        };
        if !sums.accumulate {
            out.fill(0);
        }
        row(a, panel, b.strides[0], out);
    }
}

simd! {
    /// Adds the products of a row of A and a panel, whose groups are `stride` elements apart.
    fn row(a: &[u8], panel: &[i8], stride: usize, out: &mut [i32]) {
        let mut sums = [0i32; PANEL];
        for (a, columns) in a.as_chunks::<GROUP>().0.iter().zip(panel.chunks_exact(stride)) {
            // 16 bits hold any product, and pairs of them are added by one instruction.
            let a = a.map(i16::from);
            for (sum, b) in sums.iter_mut().zip(columns.as_chunks::<GROUP>().0) {
                let products = [0, 1, 2, 3].map(|t| i32::from(a[t]) * i32::from(i16::from(b[t])));
                *sum += (products[0] + products[1]) + (products[2] + products[3]);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += sum;
        }
    }
}
