//! Pooling of images.

use transdiff_core::Result;
use transdiff_core::backend::{Pooling, View, ViewMut, Windows};

use crate::device::Cpu;
use crate::element::{Element, Real};
use crate::scratch::Scratch;
use crate::view::{Float, input, output};

simd! {
    /// y ← max(y, x), where NaN counts as the largest.
    fn larger<T: Float>(y: &mut [T::Real], x: &[T]) {
        for (y, x) in y.iter_mut().zip(x.iter().map(|x| x.real())) {
            #[allow(clippy::eq_op, reason = "NaN differs from itself")]
            let replaces = x > *y || x != x;
            *y = if replaces { x } else { *y };
        }
    }
}

simd! {
    fn add<T: Float>(y: &mut [T::Real], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x.real();
        }
    }
}

simd! {
    fn store_scaled<T: Float>(x: &[T::Real], factor: T::Real, y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = T::rounded(x * factor);
        }
    }
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    pooling: Pooling,
    windows: Windows,
    y: ViewMut<'_, Cpu>,
) -> Result<()> {
    let (&[_, height, width, channels], &[_, rows, columns, _]) = (x.layout.shape(), y.layout.shape()) else {
        unreachable!("core checks the rank")
    };
    let (x, y) = (input::<T>(&x), output::<T>(y));
    if y.is_empty() {
        return Ok(());
    }
    // The part of a window that is within the image.
    let seen = |axis: usize, side: usize, at: usize| {
        let (start, [before, _]) = (windows.stride[axis] * at, windows.padding[axis]);
        start.saturating_sub(before)..side.min(start + windows.kernel[axis] - before)
    };
    let cost = y.len() * windows.kernel[0] * windows.kernel[1] / 8;
    cpu.chunks(y, columns * channels, cost, |from, line| {
        let line_number = from / (columns * channels);
        let (image, row) = (line_number / rows, line_number % rows);
        T::Real::with_scratch(channels, |pooled| {
            for (column, y) in line.chunks_exact_mut(channels).enumerate() {
                let (down, across) = (seen(0, height, row), seen(1, width, column));
                pooled.fill(if pooling == Pooling::Max { T::Real::LOWEST } else { T::Real::ZERO });
                for i in down.clone() {
                    for j in across.clone() {
                        let pixel = &x[((image * height + i) * width + j) * channels..][..channels];
                        match pooling {
                            Pooling::Max => larger(pooled, pixel),
                            Pooling::Average => add(pooled, pixel),
                        }
                    }
                }
                let factor = match pooling {
                    Pooling::Max => T::Real::ONE,
                    Pooling::Average => T::Real::ONE / T::Real::of((down.len() * across.len()) as f64),
                };
                store_scaled(pooled, factor, y);
            }
        });
    });
    Ok(())
}
