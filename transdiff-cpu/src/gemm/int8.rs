//! Products of 8-bit integers: inputs quantised per row, weights per column, exact sums.
//!
//! x[m, k] ≈ row_scales[m] · (q[m, k] − 128) with q unsigned, w[k, n] ≈ scales[n] · p[k, n] with p signed, so that
//! Σ x·w = row_scales[m] · scales[n] · (Σ q·p − 128 Σ p). The last sum is known in advance.

use std::ops::Range;

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};
use super::pack::RightOperand;
use super::portable_int8;
use crate::instruction_set::InstructionSet;
use crate::int8_panels::{GROUP, Int8Panels, PANEL, ZERO};
use crate::view::Float;

/// Largest magnitude of a quantised input.
const LARGEST: f32 = 127.0;

/// Number of values of k per block: a panel is then at most 96 KiB.
const DEPTH: usize = 2048;

/// [`MicroKernel::multiply`] with the instructions of a set. The processor has them.
type Multiply = unsafe fn(usize, Left<u8>, Panel<i8>, Sums<i32>);

/// The kernel, with the scales of a product's rows and columns. Instruction sets differ in the tiles of a panel alone.
#[derive(Clone, Copy)]
pub(super) struct Int8Kernel<'a> {
    multiply: Multiply,
    rows: &'a [f32],
    weight: &'a Int8Panels,
}

impl<'a> Int8Kernel<'a> {
    /// The kernel of an instruction set, which the processor has.
    pub(super) fn new(set: InstructionSet, rows: &'a [f32], weight: &'a Int8Panels) -> Self {
        Self { multiply: tiles(set), rows, weight }
    }
}

fn tiles(set: InstructionSet) -> Multiply {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Vnni | InstructionSet::Avx512Bf16 => super::avx512_int8::panel_rows,
        _ => portable_int8::panel_rows,
    }
}

impl MicroKernel for Int8Kernel<'_> {
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
        // SAFETY: the processor has the instruction set; the operands reach their elements, as the caller promises.
        unsafe { (self.multiply)(m, a, b, sums) }
    }

    fn convert(&self, [row, column]: [usize; 2], sums: &[i32], out: &mut [f32]) {
        let columns = column..column + sums.len();
        let (offsets, scales) = (&self.weight.offsets()[columns.clone()], &self.weight.scales()[columns]);
        scale(sums, offsets, self.rows[row], scales, out);
    }
}

simd! {
    fn scale(sums: &[i32], offsets: &[i32], row: f32, scales: &[f32], out: &mut [f32]) {
        for (((out, &sum), &offset), &scale) in out.iter_mut().zip(sums).zip(offsets).zip(scales) {
            *out = (sum - offset) as f32 * (row * scale);
        }
    }
}

simd! {
    /// Quantises a row to the nearest multiple of its scale, which it returns: the largest magnitude over 127. Elements of
    /// `out` beyond the row become 0.
    pub(super) fn quantize_row<T: Float<Real = f32>>(x: &[T], out: &mut [u8]) -> f32 {
        // Bits of magnitudes are ordered as the magnitudes are, and those of NaN are the largest: it becomes the scale.
        let largest = x.iter().fold(0, |largest, x| x.real().abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        let over = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        let (row, padding) = out.split_at_mut(x.len());
        for (out, x) in row.iter_mut().zip(x) {
            *out = to_byte(x.real() * over);
        }
        padding.fill(0);
        largest / LARGEST
    }
}

/// The nearest integer to `x`, whose magnitude is at most 127, as the distance from −128.
#[inline(always)]
fn to_byte(x: f32) -> u8 {
    // Adding 1.5·2²³ leaves the nearest integer in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    ((x + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32 + ZERO) as u8
}

impl RightOperand<Int8Kernel<'_>> for &Int8Panels {
    fn reaches(&self, [k, n]: [usize; 2]) -> bool {
        [n, k] == [self.shape()[0], self.depth()]
    }

    fn scratch_len(&self, _: &Int8Kernel<'_>, _: [usize; 3]) -> usize {
        0
    }

    unsafe fn panel(
        &self,
        _: &Int8Kernel<'_>,
        depth: Range<usize>,
        columns: Range<usize>,
        _: &mut [i8],
    ) -> Panel<i8> {
        let (panel, stride) = Int8Panels::panel(self, depth.start, columns.start);
        Panel { start: panel.as_ptr(), strides: [stride, GROUP], depth: depth.len(), width: columns.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_quantised_to_the_nearest_multiple() {
        for len in [0, 1, 15, 16, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i * i % 23) as f32 - 11.3).collect();
            let mut q = vec![255; len + 3];
            let scale = quantize_row(&x, &mut q);
            for (x, &q) in x.iter().zip(&q) {
                assert!(
                    (x - scale * f32::from(i16::from(q) - 128)).abs() <= 0.5001 * scale,
                    "{x} became {q}"
                );
            }
            assert_eq!(q[len..], [0; 3]);
            assert!(len == 0 || q[..len].iter().any(|&q| q == 1 || q == 255));
        }
        let mut q = [0; 2];
        assert_eq!((quantize_row(&[0.0f32, -0.0], &mut q), q), (0.0, [128; 2]));
        assert!(quantize_row(&[1.0, f32::NAN], &mut q).is_nan());
    }
}
