//! Products of 8-bit integers on AVX-512 VNNI: an instruction adds the products of four k to each of 16 sums, at four times
//! the rate of f32.

use std::arch::x86_64::{
    __mmask16, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

use super::avx512_tile::{LANES, packed_tiles};
use super::int8::Scales;
use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};
use crate::instruction_set::InstructionSet;
use crate::int8_panels::{GROUP, PANEL};

/// Number of values of k per block: a panel is then at most 96 KiB.
const DEPTH: usize = 2048;

// The panels of weights are those of the tiles.
const _: () = assert!(PANEL == super::avx512_tile::PANEL);

/// The kernel. A value of this type exists only where the processor has AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Int8<'a>(Scales<'a>);

impl<'a> Avx512Int8<'a> {
    /// The kernel, if it is in the instruction set, which the processor has.
    pub(super) fn of(set: InstructionSet, scales: Scales<'a>) -> Option<Self> {
        (set >= InstructionSet::Avx512Vnni).then_some(Self(scales))
    }
}

packed_tiles! {
    "avx512f,avx512vnni", [u8, i8, i32], GROUP,
    { _mm512_setzero_si512, _mm512_add_epi32, _mm512_maskz_loadu_epi32, _mm512_mask_storeu_epi32 },
    _mm512_dpbusd_epi32
}

impl MicroKernel for Avx512Int8<'_> {
    type Left = u8;
    type Right = i8;
    type Accumulator = i32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    fn panel_width(&self, remaining: usize) -> usize {
        remaining.min(PANEL)
    }

    unsafe fn multiply(&self, m: usize, a: Left<u8>, b: Panel<i8>, sums: Sums<i32>) {
        // SAFETY: the processor has the instruction sets; the operands reach their elements, as the caller promises.
        unsafe { panel_rows(m, a, b, sums) }
    }

    fn convert(&self, position: [usize; 2], sums: &[i32], out: &mut [f32]) {
        self.0.convert(position, sums, out);
    }
}
