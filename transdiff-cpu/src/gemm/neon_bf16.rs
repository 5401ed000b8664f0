//! Products of bf16 on the BF16 extension of NEON, with sums in single precision.
//!
//! An instruction adds the products of four k to each of 2×2 sums. It treats subnormal numbers as zero.

use std::arch::aarch64::{int32x4_t, vdupq_n_s32};

use half::bf16;

use super::micro_kernel::MicroKernel;
use super::neon_tile::{Arrangement, PANEL, QUAD, TwoByTwo, neon_tiles, panel_width, store};
use super::operand::{Left, Panel, Sums};
use crate::instruction_set::InstructionSet;

/// Number of values of k per block: a panel is then at most 24 KiB, part of a first-level cache.
const DEPTH: usize = 1024;

/// The kernel. A value of this type exists only where the processor has the BF16 extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct NeonBf16(());

impl NeonBf16 {
    /// The kernel, if it is in the instruction set, which the processor has.
    pub(super) fn of(set: InstructionSet) -> Option<Self> {
        (set >= InstructionSet::NeonBf16).then_some(Self(()))
    }
}

neon_tiles! { "neon,bf16", [bf16, bf16, f32], TwoByTwo, "bfmmla {sums:v}.4s, {left:v}.8h, {right:v}.8h" }

impl MicroKernel for NeonBf16 {
    type Left = bf16;
    type Right = bf16;
    type Accumulator = f32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    fn panel_width(&self, remaining: usize) -> usize {
        panel_width(remaining)
    }

    fn packed_len(&self, _: usize, depth: usize, _: [usize; 2]) -> usize {
        depth.next_multiple_of(GROUP) * PANEL
    }

    /// Packs a panel in groups of k; columns up to whole fours and values of k up to whole groups become 0.
    unsafe fn pack(&self, b: Panel<bf16>, packed: &mut [bf16]) -> Panel<bf16> {
        let ([sk, sn], stride) = (b.strides, b.width.next_multiple_of(QUAD) * GROUP);
        for (k, row) in (0..b.depth).step_by(GROUP).zip(packed.chunks_exact_mut(stride)) {
            for (j, group) in row.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                for (t, out) in group.iter_mut().enumerate() {
                    let inside = j < b.width && k + t < b.depth;
                    // SAFETY: an element of the panel, which the caller promises.
                    *out = if inside { unsafe { *b.start.add((k + t) * sk + j * sn) } } else { bf16::ZERO };
                }
            }
        }
        Panel { start: packed.as_ptr(), strides: [stride, GROUP], ..b }
    }

    fn packed_left_len(&self, [m, k]: [usize; 2], strides: [usize; 2]) -> usize {
        if strides[1] == 1 && k % GROUP == 0 { 0 } else { m * k.next_multiple_of(GROUP) }
    }

    unsafe fn pack_left(&self, a: Left<bf16>, shape: [usize; 2], packed: &mut [bf16]) {
        // SAFETY: m×k elements, as the caller promises.
        unsafe { a.copy_rows(shape, shape[1].next_multiple_of(GROUP), packed) };
    }

    unsafe fn multiply(&self, m: usize, a: Left<bf16>, b: Panel<bf16>, sums: Sums<f32>) {
        // SAFETY: the processor has the instruction set; the operands reach their elements, as the caller promises.
        unsafe { panel_rows(m, a, b, sums) }
    }

    fn convert(&self, _: [usize; 2], sums: &[f32], out: &mut [f32]) {
        out.copy_from_slice(sums);
    }
}
