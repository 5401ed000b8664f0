//! The blocked driver of all matrix products: it partitions C between threads, iterates over panels of B and blocks of
//! k, and calls the micro-kernel and the epilogue.

use std::any::TypeId;
use std::ops::Range;

use super::epilogue::Epilogue;
use super::micro_kernel::MicroKernel;
use super::operand::{Left, Operand, Sums};
use super::pack::RightOperand;
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::scratch::Scratch;

/// Number of elements of C per block: small enough that the epilogue finds it in the cache.
const BLOCK: usize = 1 << 18;

/// Partition of C into blocks of `step` rows or columns.
struct Partition {
    by_rows: bool,
    step: usize,
}

impl Partition {
    /// Partition by columns if there are enough of them, since then no part of B is read twice, else by rows.
    fn new(cpu: &Cpu, [m, k, n]: [usize; 3], alignment: usize) -> Self {
        let wanted = if cpu.shares(m * k * n / 50) { cpu.threads() } else { 1 };
        let by_rows = n.div_ceil(alignment) < wanted;
        let long = if by_rows { m } else { n };
        let blocks = (m * n).div_ceil(BLOCK).next_multiple_of(wanted).min(long.div_ceil(alignment)).max(1);
        Self { by_rows, step: long.div_ceil(blocks).next_multiple_of(alignment) }
    }
}

/// Calls `f` with scratch memory of the thread, or with none.
fn with_scratch<T: Scratch, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    if len == 0 { f(&mut []) } else { T::with_scratch(len, f) }
}

/// C ← epilogue(A B) for A m×k, B k×n and C m×n, row-major without gaps.
pub(super) fn product<K: MicroKernel>(
    cpu: &Cpu,
    kernel: K,
    size: [usize; 3],
    a: Operand<'_, K::Left>,
    b: impl RightOperand<K>,
    c: &mut [K::Output],
    epilogue: &impl Epilogue<K::Output>,
) {
    let [m, k, n] = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.reaches([m, k]) && b.reaches([k, n]) && c.len() >= m * n);
    let Partition { by_rows, step } = Partition::new(cpu, size, K::ALIGNMENT);
    let (long, c) = (if by_rows { m } else { n }, DisjointSlice::new(c));
    let in_place = TypeId::of::<K::Accumulator>() == TypeId::of::<K::Output>();
    cpu.run(long.div_ceil(step), m * k * n / 50, |i| {
        let part = i * step..long.min((i + 1) * step);
        let (rows, columns) = if by_rows { (part, 0..n) } else { (0..m, part) };
        let width = columns.len();
        with_scratch(if in_place { 0 } else { rows.len() * width }, |scratch: &mut [K::Accumulator]| {
            let sums = if in_place {
                // The types are the same.
                let start = c.at(rows.start * n + columns.start).cast::<K::Accumulator>();
                Sums { start, stride: n, accumulate: false }
            } else {
                Sums { start: scratch.as_mut_ptr(), stride: width, accumulate: false }
            };
            // SAFETY: the operands reach their last elements, as asserted; blocks of C do not overlap, and scratch
            // memory is the thread's own.
            unsafe { block(&kernel, [rows.len(), k], a.left(rows.start), b, columns.clone(), sums) };
            for (i, row) in rows.enumerate() {
                // SAFETY: part of the block.
                let out = unsafe { c.part(row * n + columns.start, width) };
                if !in_place {
                    kernel.convert([row, columns.start], &scratch[i * width..][..width], out);
                }
                epilogue.apply(row, columns.clone(), out);
            }
        });
    });
}

/// Sums ← A B, or sums ← sums + A B, for A m×k and the columns `columns` of B, by the calling thread.
///
/// # Safety
/// A and B reach these elements, and `sums` reaches m rows and the columns; nothing else uses its elements.
pub(super) unsafe fn block<K: MicroKernel>(
    kernel: &K,
    [m, k]: [usize; 2],
    a: Left<K::Left>,
    b: impl RightOperand<K>,
    columns: Range<usize>,
    sums: Sums<K::Accumulator>,
) {
    with_scratch(kernel.packed_left_len([m, k], a.strides), |packed| {
        let a = if packed.is_empty() {
            a
        } else {
            // SAFETY: m×k elements of A, as the caller promises.
            unsafe { kernel.pack_left(a, [m, k], packed) }
        };
        with_scratch(b.scratch_len(kernel, m, k), |scratch| {
            let mut column = columns.start;
            while column < columns.end {
                let width = kernel.panel_width(columns.end - column);
                // At least once, for k = 0 too: the sums are then zero.
                for first in (0..k.max(1)).step_by(K::DEPTH) {
                    let depth = K::DEPTH.min(k - first);
                    // SAFETY: these parts of the operands, as the caller promises.
                    unsafe {
                        let panel = b.panel(kernel, first..first + depth, column..column + width, scratch);
                        let sums = sums.from(0, column - columns.start);
                        let accumulate = sums.accumulate || first > 0;
                        kernel.multiply(m, a.from(0, first), panel, Sums { accumulate, ..sums });
                    }
                }
                column += width;
            }
        });
    });
}

/// C ← A B, or C ← C + A B, for A m×k, B k×n and C m×n, row-major without gaps, by the calling thread.
pub(super) fn serial<K: MicroKernel>(
    kernel: &K,
    [m, k, n]: [usize; 3],
    a: Operand<'_, K::Left>,
    b: impl RightOperand<K>,
    c: &mut [K::Accumulator],
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.reaches([m, k]) && b.reaches([k, n]) && c.len() >= m * n);
    let sums = Sums { start: c.as_mut_ptr(), stride: n, accumulate };
    // SAFETY: operands and sums reach their last elements, as asserted.
    unsafe { block(kernel, [m, k], a.left(0), b, 0..n, sums) };
}
