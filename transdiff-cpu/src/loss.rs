//! The mean squared error.

use transdiff_core::Result;
use transdiff_core::backend::{View, ViewMut};

use crate::device::Cpu;
use crate::element::Element;
use crate::row_sums::sum2;
use crate::view::{Float, input, output};

/// Number of elements per task.
const CHUNK: usize = 1 << 13;

simd! {
    /// Σ (a − b)² in f64.
    fn squared_distance<T: Float>(a: &[T], b: &[T]) -> f64 {
        sum2(a, b, |a, b| {
            let d = a.wide() - b.wide();
            d * d
        })
    }
}

simd! {
    fn differences<T: Float>(a: &[T], b: &[T], factor: T::Real, out: &mut [T]) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = T::rounded((a.real() - b.real()) * factor);
        }
    }
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    a: View<'_, Cpu>,
    b: View<'_, Cpu>,
    loss: ViewMut<'_, Cpu>,
) -> Result<()> {
    let (a, b) = (input::<T>(&a), input::<T>(&b));
    let mut sums = vec![0.0; a.len().div_ceil(CHUNK)];
    cpu.chunks(&mut sums, 1, a.len() / 2, |i, sum| {
        let range = i * CHUNK..a.len().min((i + 1) * CHUNK);
        sum[0] = squared_distance(&a[range.clone()], &b[range]);
    });
    output::<T>(loss)[0] = T::of(sums.iter().sum::<f64>() / a.len() as f64);
    Ok(())
}

pub(crate) fn backward<T: Float>(
    cpu: &Cpu,
    a: View<'_, Cpu>,
    b: View<'_, Cpu>,
    dloss: View<'_, Cpu>,
    da: ViewMut<'_, Cpu>,
) -> Result<()> {
    let (a, b, da) = (input::<T>(&a), input::<T>(&b), output::<T>(da));
    let factor = T::Real::of(2.0 * input::<T>(&dloss)[0].wide() / a.len() as f64);
    cpu.chunks(da, CHUNK, a.len() / 2, |from, da| {
        let range = from..from + da.len();
        differences(&a[range.clone()], &b[range], factor, da);
    });
    Ok(())
}
