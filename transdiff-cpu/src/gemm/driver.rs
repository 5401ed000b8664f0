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
use crate::view::{Float, store};

/// Number of elements of C per block: small enough that the epilogue finds it in the cache.
const BLOCK: usize = 1 << 18;
/// Number of sums per block that are not formed in C: their scratch memory shares the second-level cache with A and B.
const SCRATCH_BLOCK: usize = 1 << 16;
/// Panels by which such blocks are rounded up, if threads then share them equally. Loops over rows of them are whole iterations:
/// a remainder in smaller vectors, which the next loop loads in larger ones, takes 7 % of a decoder's evaluation.
const COARSE: usize = 4;
/// Number of elements of B up to which A is partitioned into blocks of rows that stay in the second-level cache while all
/// panels of B pass.
const SMALL_RIGHT: usize = 1 << 16;
/// Number of elements of A and C in such a block of rows.
const TALL_BLOCK: usize = 1 << 17;
/// Number of rows of such a block at least: B may be packed once for them.
const TALL_ROWS: usize = 768;

/// Partition of C into blocks of `step` rows or columns.
struct Partition {
    by_rows: bool,
    step: usize,
}

impl Partition {
    /// Partition by rows if B is small and A is tall; `packs` if B is packed for every block. Otherwise by columns if there are enough of them, since then no part
    /// of B is read twice, else by rows.
    fn new(cpu: &Cpu, [m, k, n]: [usize; 3], alignment: usize, packs: bool, block: usize) -> Self {
        let wanted = if cpu.shares(m * k * n / 50) { cpu.threads() } else { 1 };
        let tall = (TALL_BLOCK / (k + n)).max(if packs { TALL_ROWS } else { alignment });
        if k * n <= SMALL_RIGHT && m > tall * wanted {
            let blocks = m.div_ceil(tall).next_multiple_of(wanted);
            return Self { by_rows: true, step: m.div_ceil(blocks).next_multiple_of(alignment) };
        }
        let by_rows = n.div_ceil(alignment) < wanted;
        let long = if by_rows { m } else { n };
        let blocks = (m * n).div_ceil(block).next_multiple_of(wanted).min(long.div_ceil(alignment)).max(1);
        let step = long.div_ceil(blocks).next_multiple_of(alignment);
        let coarse = step.next_multiple_of(COARSE * alignment);
        let fits = block == SCRATCH_BLOCK && !by_rows && n.div_ceil(coarse).is_multiple_of(wanted);
        Self { by_rows, step: if fits { coarse } else { step } }
    }
}

/// Calls `f` with scratch memory of the thread, or with none.
fn with_scratch<T: Scratch, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    if len == 0 { f(&mut []) } else { T::with_scratch(len, f) }
}

/// C ← epilogue(A B), rounded, for A m×k, B k×n and C m×n, row-major without gaps.
pub(super) fn product<K: MicroKernel, C: Float<Real = K::Output>>(
    cpu: &Cpu,
    kernel: K,
    size: [usize; 3],
    a: Operand<'_, K::Left>,
    b: impl RightOperand<K>,
    c: &mut [C],
    epilogue: &impl Epilogue<K::Output>,
) {
    let [m, k, n] = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.reaches([m, k]) && b.reaches([k, n]) && c.len() >= m * n);
    with_packed_left(Some(cpu), &kernel, [m, k], a, |a| blocks(cpu, kernel, size, a, b, c, epilogue));
}

/// The blocks of C, for an A as the kernel reads it.
fn blocks<K: MicroKernel, C: Float<Real = K::Output>>(
    cpu: &Cpu,
    kernel: K,
    size @ [m, k, n]: [usize; 3],
    a: Operand<'_, K::Left>,
    b: impl RightOperand<K>,
    c: &mut [C],
    epilogue: &impl Epilogue<K::Output>,
) {
    let in_place = TypeId::of::<K::Accumulator>() == TypeId::of::<C>();
    let block_size = if in_place { BLOCK } else { SCRATCH_BLOCK };
    let Partition { by_rows, step } =
        Partition::new(cpu, size, K::ALIGNMENT, b.scratch_len(&kernel, size) > 0, block_size);
    let (long, c) = (if by_rows { m } else { n }, DisjointSlice::new(c));
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
            if in_place {
                for row in rows {
                    let out = c.at(row * n + columns.start).cast();
                    // SAFETY: part of the block, of the type of the sums, which is the type of outputs then.
                    epilogue
                        .apply(row, columns.clone(), unsafe { std::slice::from_raw_parts_mut(out, width) });
                }
                return;
            }
            K::Output::with_scratch(width, |outputs| {
                for (i, row) in rows.enumerate() {
                    kernel.convert([row, columns.start], &scratch[i * width..][..width], outputs);
                    epilogue.apply(row, columns.clone(), outputs);
                    // SAFETY: part of the block.
                    store(outputs, unsafe { c.part(row * n + columns.start, width) });
                }
            });
        });
    });
}

/// Number of rows of A per task that packs them.
const PACKED_ROWS: usize = 32;

/// Calls `f` with A as the kernel reads it: in place, or packed, by all threads if there is a device.
fn with_packed_left<K: MicroKernel>(
    cpu: Option<&Cpu>,
    kernel: &K,
    [m, k]: [usize; 2],
    a: Operand<'_, K::Left>,
    f: impl FnOnce(Operand<'_, K::Left>),
) {
    let len = kernel.packed_left_len([m, k], a.strides);
    if len == 0 {
        return f(a);
    }
    debug_assert!(len.is_multiple_of(m));
    let row = len / m;
    with_scratch(len, |packed| {
        let pack = |first: usize, packed: &mut [K::Left]| {
            // SAFETY: rows of A.
            unsafe { kernel.pack_left(a.left(first), [packed.len() / row, k], packed) };
        };
        match cpu {
            Some(cpu) => {
                cpu.chunks(packed, PACKED_ROWS * row, m * k / 2, |at, packed| pack(at / row, packed))
            }
            None => {
                let parts = packed.chunks_mut(PACKED_ROWS * row).enumerate();
                parts.for_each(|(part, packed)| pack(part * PACKED_ROWS, packed));
            }
        }
        f(Operand::rows(packed, row));
    });
}

/// Sums ← A B, or sums ← sums + A B, for A m×k and the columns `columns` of B, by the calling thread.
///
/// # Safety
/// A, as the kernel reads it, and B reach these elements, and `sums` reaches m rows and the columns; nothing else uses its elements.
pub(super) unsafe fn block<K: MicroKernel>(
    kernel: &K,
    [m, k]: [usize; 2],
    a: Left<K::Left>,
    b: impl RightOperand<K>,
    columns: Range<usize>,
    sums: Sums<K::Accumulator>,
) {
    with_scratch(b.scratch_len(kernel, [m, k, columns.len()]), |scratch| {
        let mut add = |first: usize, column: usize, width: usize| {
            let depth = K::DEPTH.min(k - first);
            // SAFETY: these parts of the operands, as the caller promises.
            unsafe {
                let panel = b.panel(kernel, first..first + depth, column..column + width, scratch);
                let sums = sums.from(0, column - columns.start);
                let accumulate = sums.accumulate || first > 0;
                kernel.multiply(m, a.from(0, first), panel, Sums { accumulate, ..sums });
            }
        };
        // At least once, for k = 0 too: the sums are then zero.
        let depths = (0..k.max(1)).step_by(K::DEPTH);
        let panels = || {
            let mut column = columns.start;
            std::iter::from_fn(move || {
                let at = column;
                column += if at < columns.end { kernel.panel_width(columns.end - at) } else { 0 };
                (at < column).then_some((at, column - at))
            })
        };
        if a.strides[1] == 1 {
            panels().for_each(|(at, width)| depths.clone().for_each(|first| add(first, at, width)));
        } else {
            // A lies column by column: those of a block of k stay in the second-level cache.
            depths.for_each(|first| panels().for_each(|(at, width)| add(first, at, width)));
        }
    });
}

/// C ← A B, or C ← C + A B, for A m×k, B k×n and C m×n, row-major without gaps, by the calling thread.
pub(crate) fn serial<K: MicroKernel>(
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
    with_packed_left(None, kernel, [m, k], a, |a| {
        // SAFETY: operands and sums reach their last elements, as asserted.
        unsafe { block(kernel, [m, k], a.left(0), b, 0..n, sums) };
    });
}
