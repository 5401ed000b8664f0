//! Convolution as matrix products, without a copy of every window.
//!
//! A band of rows is copied once, with its padding, scaled and shifted on the way. In that copy the L pixels that one row of
//! the kernel K×L sees at a position are L·C consecutive elements, and those of the next position begin a stride on: a
//! matrix of overlapping rows. The band's outputs are the sum of K products with it, one per row of the kernel, over
//! all positions of the copy from the first to the last that is wanted; the few between the end of a row and the
//! beginning of the next are computed and ignored. With a stride of S rows, the copy holds every S-th row in
//! succession: those that a row of the kernel sees at consecutive rows of positions.
//!
//! If sides are doubled before a 3×3 kernel that keeps them, each of the four outputs of a position (the phases) sees 2×2
//! pixels of the input, and weights that see the same pixel are added beforehand: 4 multiplications per output and
//! channel instead of 9. Before other kernels the copy has every pixel twice.
//!
//! Results do not depend on the partition into bands: rows of a product are independent, and sums over the kernel's
//! rows have a fixed order.

use std::any::TypeId;
use std::borrow::Cow;
use std::ops::Range;

use transdiff_core::Result;
use transdiff_core::backend::{ConvArgs, ViewMut, Windows};

use crate::activation::sigmoid;
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::Real;
use crate::gemm::{ALIGNMENT, Gemm, KernelTask, MicroKernel, Operand, serial};
use crate::memory::zeros;
use crate::scratch::Scratch;
use crate::view::{Float, input, output, store};

/// Number of elements of a band's copy: with the panels of the products it should fit a second-level cache.
const BAND: usize = 3 << 16;
/// Number of weights per task that converts them.
const CHUNK: usize = 1 << 14;

/// Scales and shifts of the channels of all images, and whether SiLU follows.
type ScaleShift<'a, T> = Option<(&'a [T], bool)>;

/// Arguments of a call, and the sizes that follow from them.
struct Problem<'a, T: Float, L: Float> {
    x: &'a [T],
    /// For each phase, [its kernel, C, O].
    w: Cow<'a, [L]>,
    b: &'a [T],
    scale_shift: ScaleShift<'a, T::Real>,
    residual: Option<&'a [T]>,
    relu: bool,
    images: usize,
    /// Height, width and channels of the input.
    from: [usize; 3],
    /// Height and width of the positions; each has one output per phase.
    grid: [usize; 2],
    outputs: usize,
    windows: Windows,
    /// Times that the copy has each pixel, along either side: 2 where sides are doubled without phases.
    repeat: usize,
    /// Outputs of a position along either side: 2 with phases.
    scale: usize,
    /// Height and width of a phase's kernel.
    side: [usize; 2],
}

/// The kernels of the four phases of a doubled image, [2, 2, side, side, C, O] of w [K, K, C, O] with K 1 or 3: row t of the
/// kernel sees row (p + t + K/2) / 2 of the rows that phase p sees, counted from row p·K/2 of the copy.
fn phases<T: Float, L: Float<Real = T::Real>>(cpu: &Cpu, w: &[T], k: usize) -> Result<Vec<L>> {
    let (side, area) = (k / 2 + 1, w.len() / (k * k));
    let mut out = zeros("conv2d", 4 * side * side * area)?;
    let place = |p: usize, t: usize| (p + t + k / 2) / 2 - p * (k / 2);
    cpu.chunks(&mut out, area, w.len(), |at, sum| {
        let i = at / area;
        let (tap, phase) = (i % (side * side), i / (side * side));
        T::Real::with_scratch(area, |total| {
            total.fill(T::Real::ZERO);
            for t in 0..k * k {
                let [row, column] = [(phase / 2, t / k), (phase % 2, t % k)].map(|(p, t)| place(p, t));
                if row * side + column == tap {
                    total.iter_mut().zip(&w[t * area..][..area]).for_each(|(s, &w)| *s += w.real());
                }
            }
            store(total, sum);
        });
    });
    Ok(out)
}

/// The elements in the type of a kernel's operands.
fn converted<'a, T: Float, L: Float<Real = T::Real>>(cpu: &Cpu, w: &'a [T]) -> Result<Cow<'a, [L]>> {
    if TypeId::of::<T>() == TypeId::of::<L>() {
        // SAFETY: the types are the same.
        return Ok(Cow::Borrowed(unsafe { std::slice::from_raw_parts(w.as_ptr().cast(), w.len()) }));
    }
    let mut out = zeros("conv2d", w.len())?;
    cpu.chunks(&mut out, CHUNK, w.len() / 8, |from, out| convert(&w[from..][..out.len()], out));
    Ok(Cow::Owned(out))
}

impl<'a, T: Float, L: Float<Real = T::Real>> Problem<'a, T, L> {
    fn new(cpu: &Cpu, args: &ConvArgs<'a, Cpu>) -> Result<Self> {
        let &[images, height, width, channels] = args.x.layout.shape() else {
            unreachable!("core checks the rank")
        };
        let (windows, w) = (args.windows, input::<T>(&args.w));
        let kernel = windows.kernel;
        let phased = args.doubled
            && [[1; 2], [3; 2]].contains(&kernel)
            && windows.stride == [1; 2]
            && windows.padding == [[kernel[0] / 2; 2]; 2];
        let (repeat, scale) = match (args.doubled, phased) {
            (false, _) => (1, 1),
            (true, true) => (1, 2),
            (true, false) => (2, 1),
        };
        let count = |axis, side| windows.count(axis, side).expect("core checks that a window fits");
        let grid = [count(0, repeat * height), count(1, repeat * width)];
        Ok(Self {
            x: input(&args.x),
            w: if phased { Cow::Owned(phases(cpu, w, kernel[0])?) } else { converted(cpu, w)? },
            b: input(&args.b),
            scale_shift: args.scale_shift.as_ref().map(|(values, silu)| (input(values), *silu)),
            residual: args.residual.as_ref().map(input),
            relu: args.relu,
            images,
            from: [height, width, channels],
            grid,
            outputs: args.w.layout.shape()[3],
            windows,
            repeat,
            scale,
            side: if phased { kernel.map(|k| k / 2 + 1) } else { kernel },
        })
    }

    /// Places of a row of the copy, a stride apart: the positions, and what the last one sees beyond its own place.
    fn places_per_row(&self) -> usize {
        let (kernel, stride) = (self.windows.kernel[1], self.windows.stride[1]);
        self.grid[1] - 1 + kernel.div_ceil(stride)
    }

    /// Elements of a row of the copy.
    fn row(&self) -> usize {
        self.places_per_row() * self.windows.stride[1] * self.from[2]
    }

    /// Rows that the copy for `rows` rows of positions has of each remainder of the stride.
    fn rows_per_remainder(&self, rows: usize) -> usize {
        let (kernel, stride) = (self.windows.kernel[0], self.windows.stride[0]);
        rows - 1 + kernel.div_ceil(stride)
    }

    /// Elements of the copy for `rows` rows of positions.
    fn copied(&self, rows: usize) -> usize {
        self.windows.stride[0] * self.rows_per_remainder(rows) * self.row()
    }

    /// Places in the copy from the first position of `rows` rows to the last.
    fn places(&self, rows: usize) -> usize {
        (rows - 1) * self.places_per_row() + self.grid[1]
    }

    /// Number of rows per band, and of columns per task.
    fn partition(&self, cpu: &Cpu) -> (usize, usize) {
        let (kernel, stride) = (self.windows.kernel[0], self.windows.stride[0]);
        let most = (BAND / self.row().max(1)).saturating_sub(kernel) / stride + 1;
        let (bands, threads) = (self.grid[0].div_ceil(most), cpu.threads());
        if bands * self.images < threads {
            let blocks = threads.div_ceil(bands * self.images).min(self.outputs.div_ceil(ALIGNMENT));
            return (self.grid[0].div_ceil(bands), self.outputs.div_ceil(blocks));
        }
        (self.grid[0].div_ceil(bands.next_multiple_of(threads)), self.outputs)
    }

    /// Copies the pixels that the rows `rows` of positions of image `image` see, scaled, shifted and padded.
    fn fill(&self, image: usize, rows: &Range<usize>, copy: &mut [L]) {
        let (row, [height, width, channels]) = (self.row(), self.from);
        if row == 0 {
            return;
        }
        let stride = self.windows.stride[0];
        let [above, left] = self.windows.padding.map(|[before, _]| before);
        let per_remainder = self.rows_per_remainder(rows.len());
        let of_image =
            |(values, silu): (&'a [T::Real], bool)| (&values[image * 2 * channels..][..2 * channels], silu);
        let scale_shift = self.scale_shift.map(of_image);
        for (i, copy) in copy.chunks_exact_mut(row).enumerate() {
            let at = stride * (rows.start + i % per_remainder) + i / per_remainder;
            let source = at.checked_sub(above).map(|y| y / self.repeat);
            let Some(y) = source.filter(|&y| y < height) else {
                copy.fill(L::default());
                continue;
            };
            let (left, rest) = copy.split_at_mut(copy.len().min(left * channels));
            // Columns beyond the last window are left out.
            let (inner, right) = rest.split_at_mut(rest.len().min(self.repeat * width * channels));
            left.fill(L::default());
            // The last pixel may be seen only once.
            let seen = inner.len().div_ceil(self.repeat * channels) * channels;
            let x = &self.x[(image * height + y) * width * channels..][..seen];
            if self.repeat == 1 {
                scale_shift_row(x, scale_shift, channels, inner);
            } else {
                let pixels = x.chunks(channels).zip(inner.chunks_mut(self.repeat * channels));
                for (x, twice) in pixels {
                    for to in twice.chunks_exact_mut(channels) {
                        scale_shift_row(x, scale_shift, channels, to);
                    }
                }
            }
            right.fill(L::default());
        }
    }

    /// The sums of a phase for the columns `cols`: one row per place.
    fn products<K>(
        &self,
        kernel: &K,
        rows: usize,
        [down, right]: [usize; 2],
        copy: &[L],
        cols: &Range<usize>,
        sums: &mut [T::Real],
    ) where
        K: MicroKernel<Left = L, Right = L, Accumulator = T::Real>,
    {
        let (row, channels) = (self.row(), self.from[2]);
        let size = [self.places(rows), self.side[1] * channels, cols.len()];
        let [stride, strides] = [self.windows.stride[0], self.windows.stride[1] * channels];
        let [first, phase] = [self.windows.kernel[0] / 2, down * self.scale + right];
        for tap in 0..self.side[0] {
            let at = tap % stride * self.rows_per_remainder(rows) + tap / stride;
            let a = &copy[(down * first + at) * row + right * first * channels..];
            let b =
                &self.w[(phase * self.side[0] + tap) * size[1] * self.outputs..][..size[1] * self.outputs];
            let b = b.get(cols.start..).unwrap_or_default();
            let (a, b) = (Operand::new(a, [strides, 1]), Operand::new(b, [self.outputs, 1]));
            serial(kernel, size, a, b, sums, tap > 0);
        }
    }

    /// Writes a phase's outputs.
    fn write(
        &self,
        image: usize,
        rows: &Range<usize>,
        [down, right]: [usize; 2],
        cols: &Range<usize>,
        sums: &mut [T::Real],
        y: DisjointSlice<'_, T>,
    ) {
        let [height, width] = self.grid.map(|n| n * self.scale);
        for (i, line) in rows.clone().zip(sums.chunks_mut(self.places_per_row() * cols.len())) {
            let first = (image * height + i * self.scale + down) * width + right;
            for (j, sums) in line.chunks_exact_mut(cols.len()).take(self.grid[1]).enumerate() {
                let at = (first + j * self.scale) * self.outputs + cols.start;
                let residual = self.residual.map(|r| &r[at..][..cols.len()]);
                // SAFETY: each pixel's columns belong to one task.
                finish(sums, &self.b[cols.clone()], residual, self.relu, unsafe { y.part(at, cols.len()) });
            }
        }
    }
}

simd! {
    /// out ← x, rounded if it is narrower.
    fn convert<T: Float, L: Float<Real = T::Real>>(x: &[T], out: &mut [L]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = L::rounded(x.real());
        }
    }
}

simd! {
    /// Applies scale, shift and SiLU to a row of pixels.
    fn scale_shift_row<T: Float, L: Float<Real = T::Real>>(
        x: &[T], scale_shift: ScaleShift<'_, T::Real>, channels: usize, out: &mut [L],
    ) {
        let Some((values, silu)) = scale_shift else { return convert(x, out) };
        let (scales, shifts) = values.split_at(channels);
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scales).zip(shifts) {
                let z = x.real().fma(scale, shift);
                *out = L::rounded(if silu { z * sigmoid(z) } else { z });
            }
        }
    }
}

simd! {
    /// Writes a pixel of the output, whose sums are overwritten.
    fn finish<T: Float>(sums: &mut [T::Real], bias: &[T], residual: Option<&[T]>, relu: bool, y: &mut [T]) {
        for (sum, &bias) in sums.iter_mut().zip(bias) {
            *sum += bias.real();
        }
        if let Some(residual) = residual {
            for (sum, &r) in sums.iter_mut().zip(residual) {
                *sum += r.real();
            }
        }
        for (y, &sum) in y.iter_mut().zip(&*sums) {
            // NaN stays.
            *y = T::rounded(if relu && sum < T::Real::ZERO { T::Real::ZERO } else { sum });
        }
    }
}

pub(crate) fn forward<T: Gemm>(cpu: &Cpu, args: ConvArgs<'_, Cpu>, y: ViewMut<'_, Cpu>) -> Result<()> {
    if y.layout.numel() == 0 {
        return Ok(());
    }
    T::with_kernel(cpu, Convolution { cpu, args, y })
}

/// A call, to be run with the micro-kernel of its type.
struct Convolution<'a> {
    cpu: &'a Cpu,
    args: ConvArgs<'a, Cpu>,
    y: ViewMut<'a, Cpu>,
}

impl<T: Float> KernelTask<T> for Convolution<'_> {
    type Output = Result<()>;

    fn run<L, K>(self, kernel: K) -> Result<()>
    where
        L: Float<Real = T::Real>,
        K: MicroKernel<Left = L, Right = L, Accumulator = T::Real, Output = T::Real>,
    {
        let p = Problem::<T, L>::new(self.cpu, &self.args)?;
        let y = DisjointSlice::new(output::<T>(self.y));
        let (step, columns) = p.partition(self.cpu);
        let (bands, blocks) = (p.grid[0].div_ceil(step), p.outputs.div_ceil(columns));
        let cost = p.images * p.grid[0] * p.grid[1] * p.w.len() / 50;
        self.cpu.run(p.images * bands * blocks, cost, |task| {
            let (image, band, block) = (task / (bands * blocks), task / blocks % bands, task % blocks);
            let rows = band * step..p.grid[0].min((band + 1) * step);
            let cols = block * columns..p.outputs.min((block + 1) * columns);
            L::with_scratch(p.copied(rows.len()), |copy| {
                p.fill(image, &rows, copy);
                T::Real::with_scratch(p.places(rows.len()) * cols.len(), |sums| {
                    for phase in 0..p.scale * p.scale {
                        let phase = [phase / p.scale, phase % p.scale];
                        p.products(&kernel, rows.len(), phase, copy, &cols, sums);
                        p.write(image, &rows, phase, &cols, sums, y);
                    }
                });
            });
        });
        Ok(())
    }
}
