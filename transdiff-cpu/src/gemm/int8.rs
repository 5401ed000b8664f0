//! Products of 8-bit integers: inputs quantised per row, weights per column, exact sums.
//!
//! x[m, k] ≈ row_scales[m] · q[m, k] and w[k, n] ≈ scales[n] · p[k, n], so that Σ x·w = row_scales[m] · scales[n] · Σ q·p. Some
//! instructions take unsigned inputs: for u = q + 128, Σ q·p is Σ u·p − 128 Σ p, whose last sum is known in advance.

use std::ops::Range;

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Panel, Sums};
use super::pack::RightOperand;
use super::portable_int8;
#[cfg(target_arch = "x86_64")]
use super::{avx2_int8, avx512_int8};
#[cfg(target_arch = "aarch64")]
use super::{neon_dotprod_int8, neon_i8mm_int8};
use crate::instruction_set::InstructionSet;
#[cfg(target_arch = "aarch64")]
use crate::int8_panels::WIDE_GROUP;
use crate::int8_panels::{GROUP, Int8Panels, PAIR, PANEL, ZERO};
use crate::scratch::Scratch;
use crate::view::Float;

/// Largest magnitude of a quantised input.
const LARGEST: f32 = 127.0;

/// Number of values of k per block: a panel is then at most 96 KiB, or 192 KiB in 16 bits.
const DEPTH: usize = 2048;

/// [`MicroKernel::multiply`] with the instructions of a set. The processor has them.
type Multiply<L, R> = unsafe fn(usize, Left<L>, Panel<R>, Sums<i32>);

/// Tiles of an instruction set, which the processor has.
pub(super) enum Tiles {
    /// Of unsigned inputs.
    Bytes(Multiply<u8, i8>),
    /// Of signed inputs.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "other processors have none"))]
    SignedBytes(Multiply<i8, i8>),
    /// Of integers that are widened to 16 bits, in pairs of k.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other processors have none"))]
    Pairs(Multiply<i16, i16>),
}

impl Tiles {
    /// The tiles of an instruction set, which the processor has, for a weight that is packed for a set that it has.
    pub(super) fn of(set: InstructionSet, weight: &Int8Panels) -> Self {
        #[cfg(target_arch = "aarch64")]
        if weight.group() == WIDE_GROUP {
            return Self::Bytes(neon_i8mm_int8::panel_rows);
        }
        // Other tiles would read beyond wider groups.
        assert_eq!(weight.group(), GROUP);
        match set {
            #[cfg(target_arch = "aarch64")]
            _ if set >= InstructionSet::NeonDotprod => Self::SignedBytes(neon_dotprod_int8::panel_rows),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni | InstructionSet::Avx512Bf16 => Self::Bytes(avx512_int8::panel_rows),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2Vnni => Self::Bytes(avx2_int8::vnni::panel_rows),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 | InstructionSet::Avx512 => Self::Pairs(avx2_int8::pairs::panel_rows),
            _ => Self::Bytes(portable_int8::panel_rows),
        }
    }
}

/// The kernel, with the scales of a product's rows and columns. Instruction sets differ in the tiles of a panel alone.
#[derive(Clone, Copy)]
pub(super) struct Int8Kernel<'a, L, R> {
    pub(super) multiply: Multiply<L, R>,
    pub(super) rows: &'a [f32],
    pub(super) weight: &'a Int8Panels,
}

impl<L: Input, R: Scratch + Send + Sync> MicroKernel for Int8Kernel<'_, L, R> {
    type Left = L;
    type Right = R;
    type Accumulator = i32;
    type Output = f32;

    const ALIGNMENT: usize = PANEL;
    const DEPTH: usize = DEPTH;

    fn panel_width(&self, remaining: usize) -> usize {
        remaining.min(PANEL)
    }

    unsafe fn multiply(&self, m: usize, a: Left<L>, b: Panel<R>, sums: Sums<i32>) {
        // SAFETY: the processor has the instruction set; the operands reach their elements, as the caller promises.
        unsafe { (self.multiply)(m, a, b, sums) }
    }

    fn convert(&self, [row, column]: [usize; 2], sums: &[i32], out: &mut [f32]) {
        let columns = column..column + sums.len();
        let (weight, row) = (self.weight, self.rows[row]);
        let scales = &weight.scales()[columns.clone()];
        match L::ZERO {
            0 => scale(sums, std::iter::repeat(0), row, scales, out),
            _ => scale(sums, weight.offsets()[columns].iter().copied(), row, scales, out),
        }
    }
}

simd! {
    fn scale<I: Iterator<Item = i32>>(sums: &[i32], offsets: I, row: f32, scales: &[f32], out: &mut [f32]) {
        for (((out, &sum), offset), &scale) in out.iter_mut().zip(sums).zip(offsets).zip(scales) {
            *out = (sum - offset) as f32 * (row * scale);
        }
    }
}

simd! {
    /// Quantises a row to the nearest multiple of its scale, which it returns: the largest magnitude over 127. Elements of
    /// `out` beyond the row become 0.
    pub(super) fn quantize_row<T: Float<Real = f32>, Q: Input>(x: &[T], out: &mut [Q]) -> f32 {
        // Bits of magnitudes are ordered as the magnitudes are, and those of NaN are the largest: it becomes the scale.
        let largest = x.iter().fold(0, |largest, x| x.real().abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        let over = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        let (row, padding) = out.split_at_mut(x.len());
        for (out, x) in row.iter_mut().zip(x) {
            *out = Q::of(nearest(x.real() * over));
        }
        padding.fill(Q::default());
        largest / LARGEST
    }
}

/// The nearest integer to `x`, whose magnitude is at most 127.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    // Adding 1.5·2²³ leaves the nearest integer in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    (x + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32
}

/// A type of quantised inputs.
pub(super) trait Input: Scratch + Default + Send + Sync {
    /// The value that stands for 0: [`ZERO`] in unsigned types.
    const ZERO: i32;

    /// The input `q`, whose magnitude is at most 127.
    fn of(q: i32) -> Self;
}

macro_rules! inputs {
    ($($T:ty: $zero:expr),*) => {$(
        impl Input for $T {
            const ZERO: i32 = $zero;

            #[inline(always)]
            fn of(q: i32) -> Self {
                (q + $zero) as Self
            }
        }
    )*};
}

inputs!(u8: ZERO, i8: 0, i16: 0);

impl<L: Input> RightOperand<Int8Kernel<'_, L, i8>> for &Int8Panels {
    fn reaches(&self, shape: [usize; 2]) -> bool {
        has_shape(self, shape)
    }

    fn scratch_len(&self, _: &Int8Kernel<'_, L, i8>, _: [usize; 3]) -> usize {
        0
    }

    unsafe fn panel(
        &self,
        _: &Int8Kernel<'_, L, i8>,
        depth: Range<usize>,
        columns: Range<usize>,
        _: &mut [i8],
    ) -> Panel<i8> {
        let (panel, stride) = Int8Panels::panel(self, depth.start, columns.start);
        let strides = [stride, self.group()];
        Panel { start: panel.as_ptr(), strides, depth: depth.len(), width: columns.len() }
    }
}

impl RightOperand<Int8Kernel<'_, i16, i16>> for &Int8Panels {
    fn reaches(&self, shape: [usize; 2]) -> bool {
        has_shape(self, shape)
    }

    fn scratch_len(&self, _: &Int8Kernel<'_, i16, i16>, [_, k, _]: [usize; 3]) -> usize {
        DEPTH.min(k) * PANEL
    }

    unsafe fn panel(
        &self,
        _: &Int8Kernel<'_, i16, i16>,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &mut [i16],
    ) -> Panel<i16> {
        let (panel, stride) = Int8Panels::panel(self, depth.start, columns.start);
        let groups = depth.len() / GROUP;
        widen(&panel[..groups * stride], stride, scratch);
        let strides = [stride / GROUP * PAIR, PAIR];
        Panel { start: scratch.as_ptr(), strides, depth: depth.len(), width: columns.len() }
    }
}

/// Returns true if a weight is a right operand of this shape.
fn has_shape(weight: &Int8Panels, [k, n]: [usize; 2]) -> bool {
    [n, k] == [weight.shape()[0], weight.depth()]
}

simd! {
    /// Widens a panel whose groups are `stride` elements apart, and divides its groups into pairs.
    fn widen(panel: &[i8], stride: usize, out: &mut [i16]) {
        for (columns, out) in panel.chunks_exact(stride).zip(out.chunks_exact_mut(stride)) {
            let (first, second) = out.split_at_mut(stride / GROUP * PAIR);
            let pairs = first.as_chunks_mut::<PAIR>().0.iter_mut().zip(second.as_chunks_mut::<PAIR>().0);
            for (&[a, b, c, d], (first, second)) in columns.as_chunks::<GROUP>().0.iter().zip(pairs) {
                (*first, *second) = ([a, b].map(i16::from), [c, d].map(i16::from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_quantised_to_the_nearest_multiple() {
        for len in [0, 1, 15, 16, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i * i % 23) as f32 - 11.3).collect();
            let mut q = vec![255u8; len + 3];
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
        let mut q = [0u8; 2];
        assert_eq!((quantize_row(&[0.0f32, -0.0], &mut q), q), (0.0, [128; 2]));
        assert!(quantize_row(&[1.0, f32::NAN], &mut q).is_nan());
    }
}
