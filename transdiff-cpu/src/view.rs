//! Views of buffers as slices.

use half::bf16;
use transdiff_core::backend::{View, ViewMut};

use crate::buffer::Stored;
use crate::device::Cpu;
use crate::element::Real;
use crate::scratch::Scratch;

/// A type of tensors that operations take. Kernels load its values as [`Real`](Self::Real), compute in that type, and round
/// results once.
pub(crate) trait Float: Stored + Scratch {
    /// The type that kernels compute in, which is also the type of saved sums: f32 for bf16, and f32 and f64 themselves.
    type Real: Real + Float<Real = Self::Real>;

    /// The value, exactly.
    fn real(self) -> Self::Real;

    /// The value nearest to `x`; of two at the same distance the one whose last bit is 0.
    fn rounded(x: Self::Real) -> Self;
}

macro_rules! float {
    ($($T:ty),*) => {$(
        impl Float for $T {
            type Real = $T;

            #[inline(always)]
            fn real(self) -> $T {
                self
            }

            #[inline(always)]
            fn rounded(x: $T) -> $T {
                x
            }
        }
    )*};
}

float!(f32, f64);

impl Float for bf16 {
    type Real = f32;

    #[inline(always)]
    fn real(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// In integers and without a branch, so that it vectorises.
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN of any bits stays one.
        let nan = bits >> 16 | 0x40;
        Self::from_bits(if x.is_nan() { nan } else { nearest } as u16)
    }
}

simd! {
    /// out ← x, exactly.
    pub(crate) fn load<T: Float>(x: &[T], out: &mut [T::Real]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x.real();
        }
    }
}

simd! {
    /// out ← x, rounded.
    pub(crate) fn store<T: Float>(x: &[T::Real], out: &mut [T]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = T::rounded(x);
        }
    }
}

/// The elements of a view without gaps.
pub(crate) fn input<'a, T: Stored>(view: &View<'a, Cpu>) -> &'a [T] {
    &T::slice(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}

/// The elements of a view without gaps, for writing.
pub(crate) fn output<'a, T: Stored>(view: ViewMut<'a, Cpu>) -> &'a mut [T] {
    &mut T::slice_mut(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_the_crate_half_does() {
        // All exponents and signs, with lower bits around the ties.
        for high in 0..=u32::from(u16::MAX) {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(high << 16 | low);
                let (got, want) = (bf16::rounded(x), bf16::from_f32(x));
                assert!(got.to_bits() == want.to_bits(), "{x} ({:#x})", x.to_bits());
                assert_eq!(got.real().to_bits(), u32::from(got.to_bits()) << 16);
            }
        }
    }
}
