//! Convolution as matrix products, without a copy of every window.
//!
//! A band of rows is copied once, with its padding, and mapped on the way. In that copy the K pixels that one row of
//! the kernel sees at a position are K·C numbers in a row, and the next position's begin one pixel on: a matrix of
//! overlapping rows. The band's outputs are the sum of K products with it, one a row of the kernel, over all positions
//! of the copy from the first to the last that is wanted; the few between the end of a row and the beginning of the
//! next are computed and left.
//!
//! How a tensor is cut into bands does not change a bit: rows of a product are independent, and sums over the
//! kernel's rows have their order.

use std::ops::Range;

use transdiff_core::Result;
use transdiff_core::backend::{ConvArgs, Resample, ViewMut};

use crate::Cpu;
use crate::element::{Real, input, output};
use crate::math::sigmoid;
use crate::pool::Shared;

/// Elements of a band's copy: with the panels of the products it should fit a second-level cache.
const BAND: usize = 3 << 16;
/// The widest tile of the products: a task has at least as many columns, where there are.
const GRAIN: usize = 48;

/// Factors and summands of the channels of all images, and whether silu follows.
type Map<'a, T> = Option<(&'a [T], bool)>;

struct Problem<'a, T> {
    x: &'a [T],
    w: &'a [T],
    b: &'a [T],
    map: Map<'a, T>,
    residual: Option<&'a [T]>,
    resample: Resample,
    images: usize,
    /// Height, width and channels of the input and of the output.
    from: [usize; 3],
    to: [usize; 3],
    kernel: usize,
}

impl<'a, T: Real> Problem<'a, T> {
    fn new(args: &ConvArgs<'a, Cpu>, to: &[usize]) -> Self {
        let &[images, height, width, channels] = args.x.layout.shape() else {
            unreachable!("core checks the rank")
        };
        Self {
            x: input(&args.x),
            w: input(&args.w),
            b: input(&args.b),
            map: args.map.as_ref().map(|(map, silu)| (input(map), *silu)),
            residual: args.residual.as_ref().map(input),
            resample: args.resample,
            images,
            from: [height, width, channels],
            to: [to[1], to[2], to[3]],
            kernel: args.w.layout.shape()[0],
        }
    }

    /// Steps of the kernel between neighbouring outputs.
    fn step(&self) -> usize {
        if self.resample == Resample::Halve { 2 } else { 1 }
    }

    /// Pixels of a row of the copy.
    fn padded(&self) -> usize {
        self.step() * self.to[1] + self.kernel - 1
    }

    /// Rows of the copy for `rows` rows of the output.
    fn band_rows(&self, rows: usize) -> usize {
        self.step() * (rows - 1) + self.kernel
    }

    /// Positions from the first output of `rows` rows to the last.
    fn positions(&self, rows: usize) -> usize {
        (rows - 1) * self.padded() + self.to[1]
    }

    /// Rows of a band, and columns of a task.
    fn cut(&self, cpu: &Cpu) -> (usize, usize) {
        let row = self.padded() * self.from[2];
        let most = (BAND / row.max(1)).saturating_sub(self.kernel) / self.step() + 1;
        let bands = self.to[0].div_ceil(most);
        let threads = cpu.threads();
        if bands * self.images < threads {
            let blocks = threads.div_ceil(bands * self.images).min(self.to[2].div_ceil(GRAIN));
            return (self.to[0].div_ceil(bands), self.to[2].div_ceil(blocks));
        }
        (self.to[0].div_ceil(bands.next_multiple_of(threads)), self.to[2])
    }

    /// Copies what the rows `rows` of image `image` of the output see.
    fn fill(&self, image: usize, rows: Range<usize>, copy: &mut [T]) {
        let (row, [height, width, channels]) = (self.padded() * self.from[2], self.from);
        if row == 0 {
            return;
        }
        let map = self.map.map(|(map, silu)| (&map[image * 2 * channels..][..2 * channels], silu));
        // Padding above and on the left.
        let before = if self.resample == Resample::Halve { 0 } else { self.kernel / 2 };
        let scale = if self.resample == Resample::Double { 2 } else { 1 };
        for (i, copy) in copy.chunks_exact_mut(row).enumerate() {
            let source = (self.step() * rows.start + i).checked_sub(before).map(|y| y / scale);
            let Some(y) = source.filter(|&y| y < height) else {
                copy.fill(T::ZERO);
                continue;
            };
            let x = &self.x[(image * height + y) * width * channels..][..width * channels];
            let (left, rest) = copy.split_at_mut(before * channels);
            let (inner, right) = rest.split_at_mut(scale * width * channels);
            left.fill(T::ZERO);
            right.fill(T::ZERO);
            if scale == 1 {
                map_row(x, map, channels, inner);
            } else {
                let pixels = x.chunks_exact(channels).zip(inner.chunks_exact_mut(2 * channels));
                for (x, pair) in pixels {
                    let (first, second) = pair.split_at_mut(channels);
                    map_row(x, map, channels, first);
                    second.copy_from_slice(first);
                }
            }
        }
    }

    /// The sums of the band for the columns `cols`: a row a position.
    fn products(&self, rows: usize, copy: &[T], cols: Range<usize>, sums: &mut [T]) {
        let (row, channels, outputs) = (self.padded() * self.from[2], self.from[2], self.to[2]);
        let size = [self.positions(rows), self.kernel * channels, cols.len()];
        let strides = [self.step() * channels, 1];
        for tap in 0..self.kernel {
            let (a, b) = (&copy[tap * row..], &self.w[tap * self.kernel * channels * outputs..]);
            assert!(size[1] == 0 || a.len() >= (size[0] - 1) * strides[0] + size[1]);
            assert!(b.len() >= size[1] * outputs && sums.len() >= size[0] * size[2]);
            let (b, c) = (b.as_ptr().wrapping_add(cols.start), sums.as_mut_ptr());
            // SAFETY: the operands reach their last elements, as asserted; the sums are this task's own.
            unsafe { T::gemm(size, (a.as_ptr(), strides), (b, [outputs, 1]), (c, cols.len()), tap > 0) };
        }
    }
}

simd! {
    /// A row of pixels, mapped.
    fn map_row<T: Real>(x: &[T], map: Map<'_, T>, channels: usize, out: &mut [T]) {
        let Some((map, silu)) = map else { return out.copy_from_slice(x) };
        let (factors, summands) = map.split_at(channels);
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((out, &x), &factor), &summand) in out.iter_mut().zip(x).zip(factors).zip(summands) {
                *out = x.fma(factor, summand);
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
    /// A pixel of the output.
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

pub(crate) fn forward<T: Real>(cpu: &Cpu, args: ConvArgs<'_, Cpu>, y: ViewMut<'_, Cpu>) -> Result<()> {
    let p = Problem::<T>::new(&args, y.layout.shape());
    let y = Shared::new(output::<T>(y));
    let [height, width, outputs] = p.to;
    if p.images * height * width * outputs == 0 {
        return Ok(());
    }
    let (step, columns) = p.cut(cpu);
    let (bands, blocks) = (height.div_ceil(step), outputs.div_ceil(columns));
    let cost = p.images * height * width * outputs * p.kernel * p.kernel * p.from[2] / 50;
    cpu.run(p.images * bands * blocks, cost, |task| {
        let (image, band, block) = (task / (bands * blocks), task / blocks % bands, task % blocks);
        let rows = band * step..height.min((band + 1) * step);
        let cols = block * columns..outputs.min((block + 1) * columns);
        let copied = p.band_rows(rows.len()) * p.padded() * p.from[2];
        T::with_scratch(copied + p.positions(rows.len()) * cols.len(), |scratch| {
            let (copy, sums) = scratch.split_at_mut(copied);
            p.fill(image, rows.clone(), copy);
            p.products(rows.len(), copy, cols.clone(), sums);
            for (i, pixel) in rows.flat_map(|r| (0..width).map(move |c| (r, c))).enumerate() {
                let at = ((image * height + pixel.0) * width + pixel.1) * outputs + cols.start;
                let sums = &sums[(i / width * p.padded() + pixel.1) * cols.len()..][..cols.len()];
                let residual = p.residual.map(|r| &r[at..][..cols.len()]);
                // SAFETY: each pixel's columns belong to one task.
                finish(sums, &p.b[cols.clone()], residual, unsafe { y.part(at, cols.len()) });
            }
        });
    });
    Ok(())
}
