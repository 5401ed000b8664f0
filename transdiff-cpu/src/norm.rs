//! Layer normalisation with affine transform and modulation.

use transdiff_core::Result;
use transdiff_core::backend::{NormArgs, NormGrads, View, ViewMut};

use crate::buffer::Stored;
use crate::device::Cpu;
use crate::element::{Element, Real};
use crate::memory::zeros;
use crate::row_sums::{sum1, sum2};
use crate::scratch::Scratch;
use crate::view::{Float, input, output, store};

/// Number of rows per task; sums over rows are formed for each chunk and then added in order.
const ROWS: usize = 32;

/// G groups of R rows of D channels, divided into chunks of rows that do not cross groups.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    count: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) per_group: usize,
    pub(crate) chunks: usize,
}

impl Groups {
    pub(crate) fn new(shape: &[usize]) -> Self {
        let per_group = shape[1].div_ceil(ROWS);
        Self { count: shape[0], rows: shape[1], width: shape[2], per_group, chunks: shape[0] * per_group }
    }

    /// The group of a chunk, its first row (among all rows) and the number of its rows.
    pub(crate) fn chunk(&self, i: usize) -> (usize, usize, usize) {
        let (group, part) = (i / self.per_group, i % self.per_group);
        (group, group * self.rows + part * ROWS, ROWS.min(self.rows - part * ROWS))
    }

    /// The chunks of an output with `width` elements per row, in order; none of an output without elements.
    pub(crate) fn split<'a, T: Send>(
        &self,
        out: &'a mut [T],
        width: usize,
    ) -> impl Iterator<Item = &'a mut [T]> + Send + use<'a, T> {
        let (group, chunk) = ((self.rows * width).max(1), (ROWS * width).max(1));
        out.chunks_mut(group).flat_map(move |group| group.chunks_mut(chunk))
    }

    /// The sums of a row per chunk over the chunks of each group, [G, D].
    pub(crate) fn totals<'a, T: Real>(&self, sums: impl Iterator<Item = &'a [T]>) -> Result<Vec<T>> {
        let mut totals = zeros("sum over a group", self.count * self.width)?;
        for (i, sums) in sums.enumerate() {
            add(&mut totals[self.chunk(i).0 * self.width..][..self.width], sums);
        }
        Ok(totals)
    }

    pub(crate) fn elements(&self) -> usize {
        self.count * self.rows * self.width
    }
}

/// One row per group, the groups at any stride.
#[derive(Clone, Copy)]
pub(crate) struct PerGroup<'a, T> {
    data: &'a [T],
    stride: usize,
    width: usize,
}

impl<'a, T: Stored> PerGroup<'a, T> {
    pub(crate) fn new(view: &View<'a, Cpu>) -> Self {
        let data = &T::slice(view.buffer)[view.layout.offset()..];
        Self { data, stride: view.layout.strides()[0], width: view.layout.shape()[1] }
    }

    pub(crate) fn row(&self, group: usize) -> &'a [T] {
        &self.data[group * self.stride..][..self.width]
    }
}

/// The items of an optional iterator; `None` for ever if there is no iterator.
pub(crate) fn optional<I: Iterator>(mut items: Option<I>) -> impl Iterator<Item = Option<I::Item>> {
    std::iter::repeat_with(move || items.as_mut().and_then(Iterator::next))
}

type Pair<'a, T> = Option<(&'a [T], &'a [T])>;

/// Mean and 1/√(variance + eps) of a row, the variance from the differences to the mean.
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: T) -> (T, T) {
    let over = T::ONE / T::of(x.len() as f64);
    let mean = sum1(x, |v| v) * over;
    let variance = sum1(x, |v| (v - mean) * (v - mean)) * over;
    (mean, T::ONE / (variance + eps).sqrt())
}

simd! {
    /// Rows of y; `row` is scratch for one.
    fn norm_rows<S: Float<Real = T::Real>, T: Float>(
        x: &[S], y: &mut [T], mut stats: Option<&mut [T::Real]>, affine: Pair<'_, T>, modulation: Pair<'_, T>,
        eps: T::Real, row: &mut [T::Real],
    ) {
        let width = row.len();
        for (i, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
            for (value, &x) in row.iter_mut().zip(x) {
                *value = x.real();
            }
            let (mean, rstd) = moments(row, eps);
            for value in row.iter_mut() {
                *value = (*value - mean) * rstd;
            }
            if let Some((weight, bias)) = affine {
                for ((value, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                    *value = value.fma(w.real(), b.real());
                }
            }
            if let Some((scale, shift)) = modulation {
                for ((value, &s), &t) in row.iter_mut().zip(scale).zip(shift) {
                    *value = value.fma(T::Real::ONE + s.real(), t.real());
                }
            }
            for (y, &value) in y.iter_mut().zip(&*row) {
                *y = T::rounded(value);
            }
            if let Some(stats) = stats.as_deref_mut() {
                stats[2 * i] = mean;
                stats[2 * i + 1] = rstd;
            }
        }
    }
}

pub(crate) fn forward<S: Float<Real = T::Real>, T: Float>(
    cpu: &Cpu,
    args: NormArgs<'_, Cpu>,
    y: ViewMut<'_, Cpu>,
    stats: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let groups = Groups::new(args.x.layout.shape());
    let width = groups.width;
    let x = input::<S>(&args.x);
    if x.is_empty() {
        return Ok(());
    }
    let affine = args.affine.as_ref().map(|(w, b)| (input::<T>(w), input::<T>(b)));
    let modulation = args.modulation.as_ref().map(|(s, t)| (PerGroup::<T>::new(s), PerGroup::<T>::new(t)));
    let y = groups.split(output::<T>(y), width);
    let stats = optional(stats.map(|s| groups.split(output::<T::Real>(s), 2)));
    cpu.for_each((0..groups.chunks).zip(y).zip(stats), x.len() / 2, |((i, y), stats)| {
        let (group, row, rows) = groups.chunk(i);
        let modulation = modulation.map(|(s, t)| (s.row(group), t.row(group)));
        let (x, eps) = (&x[row * width..][..rows * width], T::Real::of(args.eps));
        T::Real::with_scratch(width, |row| norm_rows(x, y, stats, affine, modulation, eps, row));
    });
    Ok(())
}

/// Inputs of the backward pass of a chunk of rows.
struct Chunk<'a, S, T: Float> {
    x: &'a [S],
    dy: &'a [T],
    stats: &'a [T::Real],
    weight: Option<&'a [T]>,
    scale: Option<&'a [T]>,
    residual: Option<&'a [S]>,
}

simd! {
    /// dx of a chunk. `g` is scratch for a row: dy in terms of the normalised row.
    fn chunk_dx<S: Float<Real = T::Real>, T: Float>(chunk: &Chunk<'_, S, T>, dx: &mut [S], g: &mut [T::Real]) {
        let width = g.len();
        let over = T::Real::ONE / T::Real::of(width as f64);
        let rows = chunk.x.chunks_exact(width).zip(chunk.dy.chunks_exact(width));
        let rows = rows.zip(chunk.stats.chunks_exact(2)).zip(dx.chunks_exact_mut(width));
        for (i, (((x, dy), stats), dx)) in rows.enumerate() {
            let (mean, rstd) = (stats[0], stats[1]);
            for (g, &dy) in g.iter_mut().zip(dy) {
                *g = dy.real();
            }
            if let Some(scale) = chunk.scale {
                for (g, &s) in g.iter_mut().zip(scale) {
                    *g *= T::Real::ONE + s.real();
                }
            }
            if let Some(weight) = chunk.weight {
                for (g, &w) in g.iter_mut().zip(weight) {
                    *g *= w.real();
                }
            }
            let mean_g = sum1(g, |v| v) * over;
            let mean_gx = sum2(g, x, |g, x: S| g * ((x.real() - mean) * rstd)) * over;
            let gradient = |g: T::Real, x: S| rstd * (g - mean_g - (x.real() - mean) * rstd * mean_gx);
            match chunk.residual.map(|residual| &residual[i * width..][..width]) {
                Some(residual) => {
                    for (((dx, &g), &x), residual) in dx.iter_mut().zip(&*g).zip(x).zip(residual) {
                        *dx = S::rounded(gradient(g, x) + residual.real());
                    }
                }
                None => {
                    for ((dx, &g), &x) in dx.iter_mut().zip(&*g).zip(x) {
                        *dx = S::rounded(gradient(g, x));
                    }
                }
            }
        }
    }
}

simd! {
    /// Σ dy and Σ dy · x̂ over the rows of a chunk.
    fn chunk_sums<S: Float<Real = T::Real>, T: Float>(
        chunk: &Chunk<'_, S, T>, plain: &mut [T::Real], with_x: &mut [T::Real],
    ) {
        let width = plain.len();
        plain.fill(T::Real::ZERO);
        with_x.fill(T::Real::ZERO);
        let rows = chunk.x.chunks_exact(width).zip(chunk.dy.chunks_exact(width));
        for ((x, dy), stats) in rows.zip(chunk.stats.chunks_exact(2)) {
            let (mean, rstd) = (stats[0], stats[1]);
            for (((p, w), &x), &dy) in plain.iter_mut().zip(with_x.iter_mut()).zip(x).zip(dy) {
                *p += dy.real();
                *w = dy.real().fma((x.real() - mean) * rstd, *w);
            }
        }
    }
}

pub(crate) fn backward<S: Float<Real = T::Real>, T: Float>(
    cpu: &Cpu,
    args: NormArgs<'_, Cpu>,
    stats: View<'_, Cpu>,
    dy: View<'_, Cpu>,
    grads: NormGrads<'_, Cpu>,
) -> Result<()> {
    let groups = Groups::new(args.x.layout.shape());
    let width = groups.width;
    let (x, dy, stats) = (input::<S>(&args.x), input::<T>(&dy), input::<T::Real>(&stats));
    let affine = args.affine.as_ref().map(|(w, b)| (input::<T>(w), input::<T>(b)));
    let scale = args.modulation.as_ref().map(|(s, _)| PerGroup::<T>::new(s));
    let residual = grads.residual.as_ref().map(|residual| input::<S>(residual));
    let dx = optional(grads.dx.map(|dx| groups.split(output::<S>(dx), width)));
    let summed = grads.daffine.is_some() || grads.dmodulation.is_some();
    let mut sums =
        zeros::<T::Real>("norm_modulate_backward", if summed { groups.chunks * 2 * width } else { 0 })?;
    let chunk_outputs = dx.zip(optional(summed.then(|| sums.chunks_exact_mut((2 * width).max(1)))));
    cpu.for_each((0..groups.chunks).zip(chunk_outputs), x.len(), |(i, (dx, sums))| {
        let (group, row, rows) = groups.chunk(i);
        let chunk = Chunk {
            x: &x[row * width..][..rows * width],
            dy: &dy[row * width..][..rows * width],
            stats: &stats[2 * row..][..2 * rows],
            weight: affine.map(|(w, _)| w),
            scale: scale.map(|s| s.row(group)),
            residual: residual.map(|residual| &residual[row * width..][..rows * width]),
        };
        if width == 0 {
            return;
        }
        if let Some(dx) = dx {
            T::Real::with_scratch(width, |g| chunk_dx(&chunk, dx, g));
        }
        if let Some(sums) = sums {
            let (plain, with_x) = sums.split_at_mut(width);
            chunk_sums(&chunk, plain, with_x);
        }
    });
    let halves = || sums.chunks_exact((2 * width).max(1)).map(|sums| sums.split_at(width));
    if let Some((dscale, dshift)) = grads.dmodulation {
        let plain = groups.totals(halves().map(|(plain, _)| plain))?;
        let mut with_x = groups.totals(halves().map(|(_, with_x)| with_x))?;
        if let Some(affine) = affine {
            transform(&mut with_x, &plain, affine);
        }
        store(&with_x, output::<T>(dscale));
        store(&plain, output::<T>(dshift));
    }
    if let Some((dweight, dbias)) = grads.daffine {
        let [mut of_bias, mut of_weight] =
            [zeros::<T::Real>("norm_modulate_backward", width)?, zeros("norm_modulate_backward", width)?];
        for (i, (plain, with_x)) in halves().enumerate() {
            let scale = scale.map(|s| s.row(groups.chunk(i).0));
            add_scaled(&mut of_bias, plain, scale);
            add_scaled(&mut of_weight, with_x, scale);
        }
        store(&of_weight, output::<T>(dweight));
        store(&of_bias, output::<T>(dbias));
    }
    Ok(())
}

/// Σ dy·x̂ ← Σ dy·(x̂·weight + bias), per group.
fn transform<T: Float>(with_x: &mut [T::Real], plain: &[T::Real], (weight, bias): (&[T], &[T])) {
    let width = weight.len().max(1);
    for (with_x, plain) in with_x.chunks_exact_mut(width).zip(plain.chunks_exact(width)) {
        for (((sum, &plain), &w), &b) in with_x.iter_mut().zip(plain).zip(weight).zip(bias) {
            *sum = sum.fma(w.real(), b.real() * plain);
        }
    }
}

/// total ← total + sums·(1 + scale).
fn add_scaled<T: Float>(total: &mut [T::Real], sums: &[T::Real], scale: Option<&[T]>) {
    match scale {
        None => add(total, sums),
        Some(scale) => total
            .iter_mut()
            .zip(sums)
            .zip(scale)
            .for_each(|((total, &sum), &s)| *total += sum * (T::Real::ONE + s.real())),
    }
}

pub(crate) fn add<T: Real>(to: &mut [T], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
