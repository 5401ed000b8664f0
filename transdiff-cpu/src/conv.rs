//! Convolution as matrix products, without a copy of every window.
//!
//! A band of rows is copied once, with its padding, scaled and shifted on the way. In that copy the K pixels that one row of
//! the kernel sees at a position are K·C consecutive elements, and those of the next position begin one pixel on: a
//! matrix of overlapping rows. The band's outputs are the sum of K products with it, one per row of the kernel, over
//! all positions of the copy from the first to the last that is wanted; the few between the end of a row and the
//! beginning of the next are computed and ignored.
//!
//! Where sides are doubled, each of the four outputs of a position (the phases) sees 2×2 pixels of the input through
//! the 3×3 kernel, in which weights that see the same pixel are added beforehand: 4 multiplications per output and
//! channel instead of 9.
//!
//! Results do not depend on the partition into bands: rows of a product are independent, and sums over the kernel's
//! rows have a fixed order.

use std::borrow::Cow;
use std::ops::Range;

use transdiff_core::Result;
use transdiff_core::backend::{ConvArgs, Resample, ViewMut};

use crate::activation::sigmoid;
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::Real;
use crate::gemm::{ALIGNMENT, Gemm, Operand};
use crate::memory::zeros;
use crate::view::{Float, input, output};

/// Number of elements of a band's copy: with the panels of the products it should fit a second-level cache.
const BAND: usize = 3 << 16;

/// Scales and shifts of the channels of all images, and whether SiLU follows.
type ScaleShift<'a, T> = Option<(&'a [T], bool)>;

/// Arguments of a call, and the sizes that follow from them.
struct Problem<'a, T: Float> {
    x: &'a [T],
    /// For each phase, [side, side, C, O].
    w: Cow<'a, [T]>,
    b: &'a [T],
    scale_shift: ScaleShift<'a, T>,
    residual: Option<&'a [T]>,
    images: usize,
    /// Height, width and channels of the input.
    from: [usize; 3],
    /// Height and width of the positions; each has one output per phase.
    grid: [usize; 2],
    outputs: usize,
    /// Pixels between neighbouring positions: 2 where sides are halved.
    step: usize,
    /// Outputs of a position along either side: 2 where sides are doubled.
    scale: usize,
    /// Zeros above and on the left.
    before: usize,
    kernel: usize,
    /// Side of a phase's kernel.
    side: usize,
}

/// The kernels of the four phases of a doubled image, [2, 2, side, side, C, O] of w [K, K, C, O]: row t of the kernel
/// sees row (p + t + K/2) / 2 of the rows that phase p sees, counted from row p·K/2 of the copy.
fn phases<T: Float>(cpu: &Cpu, w: &[T], k: usize) -> Result<Vec<T>> {
    let (side, area) = (k / 2 + 1, w.len() / (k * k));
    let mut out = zeros("conv2d", 4 * side * side * area)?;
    let place = |p: usize, t: usize| (p + t + k / 2) / 2 - p * (k / 2);
    cpu.chunks(&mut out, area, w.len(), |at, sum| {
        let i = at / area;
        let (tap, phase) = (i % (side * side), i / (side * side));
        for t in 0..k * k {
            let [row, column] = [(phase / 2, t / k), (phase % 2, t % k)].map(|(p, t)| place(p, t));
            if row * side + column == tap {
                sum.iter_mut().zip(&w[t * area..][..area]).for_each(|(s, &w)| *s += w);
            }
        }
    });
    Ok(out)
}

impl<'a, T: Gemm> Problem<'a, T> {
    fn new(cpu: &Cpu, args: &ConvArgs<'a, Cpu>) -> Result<Self> {
        let &[images, height, width, channels] = args.x.layout.shape() else {
            unreachable!("core checks the rank")
        };
        let (kernel, w) = (args.w.layout.shape()[0], input::<T>(&args.w));
        let (step, scale) = match args.resample {
            Resample::Same => (1, 1),
            Resample::Double => (1, 2),
            Resample::Halve => (2, 1),
        };
        Ok(Self {
            x: input(&args.x),
            w: if scale == 1 { Cow::Borrowed(w) } else { Cow::Owned(phases(cpu, w, kernel)?) },
            b: input(&args.b),
            scale_shift: args.scale_shift.as_ref().map(|(values, silu)| (input(values), *silu)),
            residual: args.residual.as_ref().map(input),
            images,
            from: [height, width, channels],
            grid: [height / step, width / step],
            outputs: args.w.layout.shape()[3],
            step,
            scale,
            before: if step == 2 { 0 } else { kernel / 2 },
            kernel,
            side: if scale == 1 { kernel } else { kernel / 2 + 1 },
        })
    }

    /// Pixels of a row of the copy.
    fn padded(&self) -> usize {
        self.step * self.grid[1] + self.kernel - 1
    }

    /// Rows of the copy for `rows` rows of positions.
    fn band_rows(&self, rows: usize) -> usize {
        self.step * (rows - 1) + self.kernel
    }

    /// Places in the copy from the first position of `rows` rows to the last.
    fn places(&self, rows: usize) -> usize {
        (rows - 1) * self.padded() + self.grid[1]
    }

    /// Number of rows per band, and of columns per task.
    fn partition(&self, cpu: &Cpu) -> (usize, usize) {
        let row = self.padded() * self.from[2];
        let most = (BAND / row.max(1)).saturating_sub(self.kernel) / self.step + 1;
        let (bands, threads) = (self.grid[0].div_ceil(most), cpu.threads());
        if bands * self.images < threads {
            let blocks = threads.div_ceil(bands * self.images).min(self.outputs.div_ceil(ALIGNMENT));
            return (self.grid[0].div_ceil(bands), self.outputs.div_ceil(blocks));
        }
        (self.grid[0].div_ceil(bands.next_multiple_of(threads)), self.outputs)
    }

    /// Copies the pixels that the rows `rows` of positions of image `image` see, scaled, shifted and padded.
    fn fill(&self, image: usize, rows: &Range<usize>, copy: &mut [T]) {
        let (row, [height, width, channels]) = (self.padded() * self.from[2], self.from);
        if row == 0 {
            return;
        }
        let of_image =
            |(values, silu): (&'a [T], bool)| (&values[image * 2 * channels..][..2 * channels], silu);
        let scale_shift = self.scale_shift.map(of_image);
        for (i, copy) in copy.chunks_exact_mut(row).enumerate() {
            let source = (self.step * rows.start + i).checked_sub(self.before);
            let Some(y) = source.filter(|&y| y < height) else {
                copy.fill(T::ZERO);
                continue;
            };
            let (left, rest) = copy.split_at_mut(self.before * channels);
            let (inner, right) = rest.split_at_mut(width * channels);
            left.fill(T::ZERO);
            scale_shift_row(
                &self.x[(image * height + y) * width * channels..][..width * channels],
                scale_shift,
                channels,
                inner,
            );
            right.fill(T::ZERO);
        }
    }

    /// The sums of a phase for the columns `cols`: one row per place.
    fn products(
        &self,
        rows: usize,
        [down, right]: [usize; 2],
        copy: &[T],
        cols: &Range<usize>,
        sums: &mut [T],
    ) {
        let (row, channels) = (self.padded() * self.from[2], self.from[2]);
        let size = [self.places(rows), self.side * channels, cols.len()];
        let strides = [self.step * channels, 1];
        let (first, phase) = (self.kernel / 2, down * self.scale + right);
        for tap in 0..self.side {
            let a = &copy[(down * first + tap) * row + right * first * channels..];
            let b = &self.w[(phase * self.side + tap) * size[1] * self.outputs..][..size[1] * self.outputs];
            let b = b.get(cols.start..).unwrap_or_default();
            let (a, b) = (Operand::new(a, strides), Operand::new(b, [self.outputs, 1]));
            T::gemm_serial(size, a, b, sums, tap > 0);
        }
    }

    /// Writes a phase's outputs.
    fn write(
        &self,
        image: usize,
        rows: &Range<usize>,
        [down, right]: [usize; 2],
        cols: &Range<usize>,
        sums: &[T],
        y: DisjointSlice<'_, T>,
    ) {
        let [height, width] = self.grid.map(|n| n * self.scale);
        for (i, line) in rows.clone().zip(sums.chunks(self.padded() * cols.len())) {
            let first = (image * height + i * self.scale + down) * width + right;
            for (j, sums) in line.chunks_exact(cols.len()).take(self.grid[1]).enumerate() {
                let at = (first + j * self.scale) * self.outputs + cols.start;
                let residual = self.residual.map(|r| &r[at..][..cols.len()]);
                // SAFETY: each pixel's columns belong to one task.
                finish(sums, &self.b[cols.clone()], residual, unsafe { y.part(at, cols.len()) });
            }
        }
    }
}

simd! {
    /// Applies scale, shift and SiLU to a row of pixels.
    fn scale_shift_row<T: Real>(x: &[T], scale_shift: ScaleShift<'_, T>, channels: usize, out: &mut [T]) {
        let Some((values, silu)) = scale_shift else { return out.copy_from_slice(x) };
        let (scales, shifts) = values.split_at(channels);
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scales).zip(shifts) {
                *out = x.fma(scale, shift);
            }
            if silu {
                for out in out {
                    *out = *out * sigmoid(*out);
                }
            }
        }
    }
}

simd! {
    /// Writes a pixel of the output.
    fn finish<T: Real>(sums: &[T], bias: &[T], residual: Option<&[T]>, y: &mut [T]) {
        for ((y, &sum), &bias) in y.iter_mut().zip(sums).zip(bias) {
            *y = sum + bias;
        }
        if let Some(residual) = residual {
            for (y, &r) in y.iter_mut().zip(residual) {
                *y += r;
            }
        }
    }
}

pub(crate) fn forward<T: Gemm>(cpu: &Cpu, args: ConvArgs<'_, Cpu>, y: ViewMut<'_, Cpu>) -> Result<()> {
    if y.layout.numel() == 0 {
        return Ok(());
    }
    let p = Problem::<T>::new(cpu, &args)?;
    let y = DisjointSlice::new(output::<T>(y));
    let (step, columns) = p.partition(cpu);
    let (bands, blocks) = (p.grid[0].div_ceil(step), p.outputs.div_ceil(columns));
    let cost = p.images * p.grid[0] * p.grid[1] * p.w.len() / 50;
    cpu.run(p.images * bands * blocks, cost, |task| {
        let (image, band, block) = (task / (bands * blocks), task / blocks % bands, task % blocks);
        let rows = band * step..p.grid[0].min((band + 1) * step);
        let cols = block * columns..p.outputs.min((block + 1) * columns);
        let copied = p.band_rows(rows.len()) * p.padded() * p.from[2];
        T::with_scratch(copied + p.places(rows.len()) * cols.len(), |scratch| {
            let (copy, sums) = scratch.split_at_mut(copied);
            p.fill(image, &rows, copy);
            for phase in 0..p.scale * p.scale {
                let phase = [phase / p.scale, phase % p.scale];
                p.products(rows.len(), phase, copy, &cols, sums);
                p.write(image, &rows, phase, &cols, sums, y);
            }
        });
    });
    Ok(())
}
