//! Group normalisation.

use transdiff_core::Result;
use transdiff_core::backend::{View, ViewMut};

use crate::device::Cpu;
use crate::element::{Element, Real};
use crate::memory::zeros;
use crate::scratch::Scratch;
use crate::view::{Float, input, output};

/// Number of pixels per task.
const PIXELS: usize = 2048;
/// Number of pixels whose sums are formed in the type that kernels compute in, before they are added to those in f64.
const RUN: usize = 32;

simd! {
    /// Σ (x − pivot) and Σ (x − pivot)² of each channel over the pixels of a run.
    fn run_sums<T: Float>(x: &[T], pivot: &[T], sums: &mut [T::Real], squares: &mut [T::Real]) {
        sums.fill(T::Real::ZERO);
        squares.fill(T::Real::ZERO);
        for pixel in x.chunks_exact(pivot.len()) {
            for (((&x, &p), sum), square) in pixel.iter().zip(pivot).zip(&mut *sums).zip(&mut *squares) {
                let d = x.real() - p.real();
                *sum += d;
                *square = d.fma(d, *square);
            }
        }
    }
}

/// Adds the sums over the pixels of a task to `out`, in f64: the sums in the first half, the squares in the second.
fn task_sums<T: Float>(x: &[T], pivot: &[T], out: &mut [f64]) {
    let channels = pivot.len();
    T::Real::with_scratch(2 * channels, |scratch| {
        let (sums, squares) = scratch.split_at_mut(channels);
        for run in x.chunks(RUN * channels) {
            run_sums(run, pivot, sums, squares);
            for (out, &sum) in out.iter_mut().zip(sums.iter().chain(&*squares)) {
                *out += sum.wide();
            }
        }
    });
}

/// Mean and variance of the channels of a group, from sums of `n` pixels about each channel's pivot.
fn moments<T: Element>(pivot: &[T], sums: &[f64], squares: &[f64], n: f64) -> (f64, f64) {
    let count = n * pivot.len() as f64;
    let mean = pivot.iter().zip(sums).map(|(p, s)| n * p.wide() + s).sum::<f64>() / count;
    let about_mean = pivot.iter().zip(sums).zip(squares).map(|((p, s), q)| {
        let d = p.wide() - mean;
        q + 2.0 * d * s + n * d * d
    });
    (mean, about_mean.sum::<f64>().max(0.0) / count)
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    affine: (View<'_, Cpu>, View<'_, Cpu>),
    groups: usize,
    eps: f64,
    scale_shift: ViewMut<'_, Cpu>,
) -> Result<()> {
    let &[images, height, width, channels] = x.layout.shape() else { unreachable!("core checks the rank") };
    let (pixels, x) = (height * width, input::<T>(&x));
    if images * channels == 0 {
        return Ok(());
    }
    let (weight, bias) = (input::<T>(&affine.0), input::<T>(&affine.1));
    let tasks = pixels.div_ceil(PIXELS);
    let mut sums = zeros::<f64>("group_norm", images * tasks * 2 * channels)?;
    // Sums about a value of the channel keep their precision if its mean is far from zero.
    let pivot = |image: usize| &x[image * pixels * channels..][..channels];
    let each = sums.chunks_exact_mut(2 * channels).enumerate();
    cpu.for_each(each, x.len() / 4, |(i, sums)| {
        let (image, from) = (i / tasks, i % tasks * PIXELS);
        let part = &x[(image * pixels + from) * channels..][..PIXELS.min(pixels - from) * channels];
        task_sums(part, pivot(image), sums);
    });
    for (image, scale_shift) in output::<T::Real>(scale_shift).chunks_exact_mut(2 * channels).enumerate() {
        let of_image = &mut sums[image * tasks * 2 * channels..][..tasks * 2 * channels];
        let (total, rest) = of_image.split_at_mut(2 * channels);
        for part in rest.chunks_exact(2 * channels) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        let (size, (scales, shifts)) = (channels / groups, scale_shift.split_at_mut(channels));
        for from in (0..channels).step_by(size) {
            let (sums, squares) = (&total[from..][..size], &total[channels + from..][..size]);
            let (mean, variance) = moments(&pivot(image)[from..][..size], sums, squares, pixels as f64);
            for c in from..from + size {
                let scale = weight[c].wide() / (variance + eps).sqrt();
                scales[c] = T::Real::of(scale);
                shifts[c] = T::Real::of(bias[c].wide() - mean * scale);
            }
        }
    }
    Ok(())
}
