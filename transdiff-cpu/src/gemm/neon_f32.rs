//! Single-precision products on NEON.
//!
//! B is packed into panels of the tile's width; with few rows, or if all of it stays in the second-level cache, it is read in
//! place. Every element is a sum fused from the left within blocks of [`DEPTH`] k, the blocks added in order.

use std::arch::aarch64::{int32x4_t, vdupq_n_s32};

use super::micro_kernel::MicroKernel;
use super::neon_tile::{Arrangement, ByElement, PANEL, QUAD, neon_tiles, panel_width, store};
use super::operand::{Left, Panel, Sums};
use super::pack::pack_strided;
use crate::instruction_set::InstructionSet;

/// Number of values of k per block: a panel is then at most 24 KiB, part of a first-level cache.
const DEPTH: usize = 512;
/// Number of rows from which packing B pays.
const PACK_ROWS: usize = 24;
/// Number of elements up to which it does not: all of B stays in the second-level cache, on few pages.
const SMALL: usize = 1 << 16;

/// The kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct NeonF32(());

impl NeonF32 {
    /// The kernel, if it is in the instruction set.
    pub(super) fn of(set: InstructionSet) -> Option<Self> {
        (set >= InstructionSet::Neon).then_some(Self(()))
    }
}

neon_tiles! { "neon", [f32, f32, f32], ByElement, "fmla {sums:v}.4s, {right:v}.4s, {left:v}.s[0]" }

impl MicroKernel for NeonF32 {
    type Left = f32;
    type Right = f32;
    type Accumulator = f32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    fn panel_width(&self, remaining: usize) -> usize {
        panel_width(remaining)
    }

    fn packed_len(&self, m: usize, depth: usize, strides: [usize; 2]) -> usize {
        let in_place = strides[1] == 1 && (m < PACK_ROWS || depth * strides[0] <= SMALL);
        if in_place { 0 } else { depth * PANEL }
    }

    unsafe fn pack(&self, b: Panel<f32>, packed: &mut [f32]) -> Panel<f32> {
        // SAFETY: the panel reaches its elements, as the caller promises.
        unsafe { pack_columns(b, packed) }
    }

    unsafe fn multiply(&self, m: usize, a: Left<f32>, b: Panel<f32>, sums: Sums<f32>) {
        let whole = b.width / QUAD * QUAD;
        // SAFETY: the operands reach their elements, as the caller promises; columns beyond whole fours, which a tile would read,
        // are packed.
        unsafe {
            panel_rows(m, a, Panel { width: whole, ..b }, sums);
            if whole < b.width {
                let mut packed = [0.0; QUAD * DEPTH];
                let rest = Panel { start: b.start.wrapping_add(whole), width: b.width - whole, ..b };
                panel_rows(m, a, pack_columns(rest, &mut packed), sums.from(0, whole));
            }
        }
    }

    fn convert(&self, _: [usize; 2], sums: &[f32], out: &mut [f32]) {
        out.copy_from_slice(sums);
    }
}

/// Copies a panel of any strides to rows of whole fours of columns.
///
/// # Safety
/// `b` reaches all its elements.
unsafe fn pack_columns(b: Panel<f32>, packed: &mut [f32]) -> Panel<f32> {
    let stride = b.width.next_multiple_of(QUAD);
    if b.strides[1] == 1 {
        for (k, out) in packed.chunks_exact_mut(stride).take(b.depth).enumerate() {
            // SAFETY: row k of the panel, as the caller promises.
            let row = unsafe { std::slice::from_raw_parts(b.start.add(k * b.strides[0]), b.width) };
            out[..b.width].copy_from_slice(row);
        }
    } else {
        // SAFETY: as the caller promises.
        unsafe { pack_strided(b, stride, packed, |x| x) };
    }
    Panel { start: packed.as_ptr(), strides: [stride, 1], ..b }
}
