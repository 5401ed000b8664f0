//! Products of bf16 on AVX-512 BF16, with sums in single precision.
//!
//! An instruction adds the products of a pair of k to each of 16 sums: twice the rate of f32 where the processor executes
//! it as fast as a multiply-add. It treats subnormal numbers as zero.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm256_maskz_loadu_epi16, _mm512_add_ps, _mm512_cvtepu16_epi32,
    _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_mask_i32gather_epi32, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512,
};

use half::bf16;

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};
use super::packed_tile::{LANES, PANEL, mask16, packed_tiles};
use crate::instruction_set::InstructionSet;

/// Number of k per group.
const PAIR: usize = 2;
/// Number of values of k per block: a panel is then at most 96 KiB.
const DEPTH: usize = 1024;

/// The kernel. A value of this type exists only where the processor has AVX-512 BF16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// The kernel, if it is in the instruction set, which the processor has.
    pub(super) fn of(set: InstructionSet) -> Option<Self> {
        (set >= InstructionSet::Avx512Bf16).then_some(Self(()))
    }
}

/// Sums + a·b, pair by pair.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn dot(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: vectors of the same size, of which all bits are values.
    let [a, b] = [a, b].map(|v| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) });
    _mm512_dpbf16_ps(sums, a, b)
}

packed_tiles! {
    "avx512f,avx512bw,avx512vl,avx512bf16", [bf16, bf16, f32], PAIR, [8, 4, 2] x 3,
    [LANES, mask16, u16], { _mm512_loadu_si512, _mm512_set1_epi32 },
    { _mm512_setzero_ps, _mm512_add_ps, _mm512_maskz_loadu_ps, _mm512_mask_storeu_ps }, dot
}

impl MicroKernel for Avx512Bf16 {
    type Left = bf16;
    type Right = bf16;
    type Accumulator = f32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    fn panel_width(&self, remaining: usize) -> usize {
        remaining.min(PANEL)
    }

    fn packed_len(&self, _: usize, depth: usize, _: [usize; 2]) -> usize {
        depth.next_multiple_of(PAIR) * PANEL
    }

    unsafe fn pack(&self, b: Panel<bf16>, packed: &mut [bf16]) -> Panel<bf16> {
        // SAFETY: the processor has the instruction sets; the panel reaches its elements, as the caller promises.
        unsafe { pack(b, packed) };
        let stride = b.width.next_multiple_of(LANES) * PAIR;
        Panel { start: packed.as_ptr(), strides: [stride, PAIR], ..b }
    }

    fn packed_left_len(&self, [m, k]: [usize; 2], strides: [usize; 2]) -> usize {
        if strides[1] == 1 && k % PAIR == 0 { 0 } else { m * k.next_multiple_of(PAIR) }
    }

    unsafe fn pack_left(&self, a: Left<bf16>, shape: [usize; 2], packed: &mut [bf16]) {
        // SAFETY: m×k elements, as the caller promises.
        unsafe { a.copy_rows(shape, shape[1].next_multiple_of(PAIR), packed) };
    }

    unsafe fn multiply(&self, m: usize, a: Left<bf16>, b: Panel<bf16>, sums: Sums<f32>) {
        // SAFETY: the processor has the instruction sets; the operands reach their elements, as the caller promises.
        unsafe { panel_rows(m, a, b, sums) }
    }

    fn convert(&self, _: [usize; 2], sums: &[f32], out: &mut [f32]) {
        out.copy_from_slice(sums);
    }
}

/// Packs a panel in pairs of k; columns up to a whole vector and an odd last k become 0.
///
/// # Safety
/// The processor has the kernel's instruction sets; `b` reaches all its elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack(b: Panel<bf16>, out: &mut [bf16]) {
    let ([sk, sn], stride) = (b.strides, b.width.next_multiple_of(LANES) * PAIR);
    assert!(out.len() >= b.depth.div_ceil(PAIR) * stride);
    // Offsets of 16 columns, in elements; indices of a gather have 32 bits.
    let gathers = sk == 1 && sn.checked_mul(LANES).is_some_and(|n| i32::try_from(n).is_ok());
    let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let offsets = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(if gathers { sn as i32 } else { 0 }));
    for (p, row) in out.chunks_exact_mut(stride).take(b.depth.div_ceil(PAIR)).enumerate() {
        let (k, whole) = (p * PAIR, p * PAIR + 1 < b.depth);
        for (j, group) in (0..b.width).step_by(LANES).zip(row.chunks_exact_mut(LANES * PAIR)) {
            let mask = mask16(LANES.min(b.width - j));
            // SAFETY: rows k and k + 1 of the panel where they exist, and the columns of the mask.
            unsafe {
                let from = b.start.add(k * sk + j * sn);
                let pairs = if sn == 1 {
                    let first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                    let mask = if whole { mask } else { 0 };
                    let second = _mm256_maskz_loadu_epi16(mask, from.wrapping_add(sk).cast());
                    _mm512_or_si512(first, _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second)))
                } else if gathers && whole {
                    let zero = _mm512_setzero_si512();
                    _mm512_mask_i32gather_epi32::<2>(zero, mask, offsets, from.cast())
                } else {
                    let mut pairs = [bf16::ZERO; LANES * PAIR];
                    for (column, pair) in pairs.chunks_exact_mut(PAIR).enumerate().take(b.width - j) {
                        pair[0] = *from.add(column * sn);
                        pair[1] = if whole { *from.add(column * sn + sk) } else { bf16::ZERO };
                    }
                    _mm512_loadu_si512(pairs.as_ptr().cast())
                };
                _mm512_storeu_si512(group.as_mut_ptr().cast(), pairs);
            }
        }
    }
}
