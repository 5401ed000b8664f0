//! Layer normalisation with affine transform and modulation.

use transdiff_core::Result;
use transdiff_core::backend::{NormArgs, NormGrads, View, ViewMut};

use crate::buffer::Stored;
use crate::device::Cpu;
use crate::element::Real;
use crate::memory::zeros;
use crate::row_sums::{sum1, sum2};
use crate::view::{Float, input, output};

/// Number of rows per task; sums over rows are formed for each chunk and then added in order.
const ROWS: usize = 32;

/// G groups of R rows of D channels, divided into chunks of rows that do not cross groups.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) per_group: usize,
    pub(crate) chunks: usize,
}

impl Groups {
    pub(crate) fn new(shape: &[usize]) -> Self {
        let per_group = shape[1].div_ceil(ROWS);
        Self { rows: shape[1], width: shape[2], per_group, chunks: shape[0] * per_group }
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

    pub(crate) fn elements(&self) -> usize {
        self.chunks / self.per_group.max(1) * self.rows * self.width
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
    fn norm_rows<T: Real>(
        x: &[T], y: &mut [T], mut stats: Option<&mut [T]>, affine: Pair<'_, T>, modulation: Pair<'_, T>, eps: T,
        width: usize,
    ) {
        for (i, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
            let (mean, rstd) = moments(x, eps);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) * rstd;
            }
            if let Some((weight, bias)) = affine {
                for ((y, &w), &b) in y.iter_mut().zip(weight).zip(bias) {
                    *y = y.fma(w, b);
                }
            }
            if let Some((scale, shift)) = modulation {
                for ((y, &s), &t) in y.iter_mut().zip(scale).zip(shift) {
                    *y = y.fma(T::ONE + s, t);
                }
            }
            if let Some(stats) = stats.as_deref_mut() {
                stats[2 * i] = mean;
                stats[2 * i + 1] = rstd;
            }
        }
    }
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    args: NormArgs<'_, Cpu>,
    y: ViewMut<'_, Cpu>,
    stats: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let groups = Groups::new(args.x.layout.shape());
    let width = groups.width;
    let x = input::<T>(&args.x);
    if x.is_empty() {
        return Ok(());
    }
    let affine = args.affine.as_ref().map(|(w, b)| (input::<T>(w), input::<T>(b)));
    let modulation = args.modulation.as_ref().map(|(s, t)| (PerGroup::<T>::new(s), PerGroup::<T>::new(t)));
    let y = groups.split(output::<T>(y), width);
    let stats = optional(stats.map(|s| groups.split(output::<T>(s), 2)));
    cpu.for_each((0..groups.chunks).zip(y).zip(stats), x.len() / 2, |((i, y), stats)| {
        let (group, row, rows) = groups.chunk(i);
        let modulation = modulation.map(|(s, t)| (s.row(group), t.row(group)));
        norm_rows(&x[row * width..][..rows * width], y, stats, affine, modulation, T::of(args.eps), width);
    });
    Ok(())
}

/// Inputs of the backward pass of a chunk of rows.
struct Chunk<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    stats: &'a [T],
    weight: Option<&'a [T]>,
    scale: Option<&'a [T]>,
}

simd! {
    /// dx of a chunk. `g` is scratch for a row: dy in terms of the normalised row.
    fn chunk_dx<T: Real>(chunk: &Chunk<'_, T>, dx: &mut [T], g: &mut [T]) {
        let width = g.len();
        let over = T::ONE / T::of(width as f64);
        let rows = chunk.x.chunks_exact(width).zip(chunk.dy.chunks_exact(width));
        for (((x, dy), stats), dx) in rows.zip(chunk.stats.chunks_exact(2)).zip(dx.chunks_exact_mut(width)) {
            let (mean, rstd) = (stats[0], stats[1]);
            match chunk.scale {
                Some(scale) => {
                    for ((g, &dy), &s) in g.iter_mut().zip(dy).zip(scale) {
                        *g = dy * (T::ONE + s);
                    }
                }
                None => g.copy_from_slice(dy),
            }
            if let Some(weight) = chunk.weight {
                for (g, &w) in g.iter_mut().zip(weight) {
                    *g *= w;
                }
            }
            let mean_g = sum1(g, |v| v) * over;
            let mean_gx = sum2(g, x, |g, x| g * ((x - mean) * rstd)) * over;
            for ((dx, &g), &x) in dx.iter_mut().zip(&*g).zip(x) {
                *dx = rstd * (g - mean_g - (x - mean) * rstd * mean_gx);
            }
        }
    }
}

simd! {
    /// Σ dy and Σ dy · x̂ over the rows of a chunk.
    fn chunk_sums<T: Real>(chunk: &Chunk<'_, T>, plain: &mut [T], with_x: &mut [T]) {
        let width = plain.len();
        plain.fill(T::ZERO);
        with_x.fill(T::ZERO);
        let rows = chunk.x.chunks_exact(width).zip(chunk.dy.chunks_exact(width));
        for ((x, dy), stats) in rows.zip(chunk.stats.chunks_exact(2)) {
            let (mean, rstd) = (stats[0], stats[1]);
            for (((p, w), &x), &dy) in plain.iter_mut().zip(with_x.iter_mut()).zip(x).zip(dy) {
                *p += dy;
                *w = dy.fma((x - mean) * rstd, *w);
            }
        }
    }
}

pub(crate) fn backward<T: Float>(
    cpu: &Cpu,
    args: NormArgs<'_, Cpu>,
    stats: View<'_, Cpu>,
    dy: View<'_, Cpu>,
    grads: NormGrads<'_, Cpu>,
) -> Result<()> {
    let groups = Groups::new(args.x.layout.shape());
    let width = groups.width;
    let (x, dy, stats) = (input::<T>(&args.x), input::<T>(&dy), input::<T>(&stats));
    let affine = args.affine.as_ref().map(|(w, b)| (input::<T>(w), input::<T>(b)));
    let scale = args.modulation.as_ref().map(|(s, _)| PerGroup::<T>::new(s));
    let dx = optional(grads.dx.map(|dx| groups.split(output::<T>(dx), width)));
    let summed = grads.daffine.is_some() || grads.dmodulation.is_some();
    let mut sums = zeros("norm_modulate_backward", if summed { groups.chunks * 2 * width } else { 0 })?;
    let chunk_outputs = dx.zip(optional(summed.then(|| sums.chunks_exact_mut((2 * width).max(1)))));
    cpu.for_each((0..groups.chunks).zip(chunk_outputs), x.len(), |(i, (dx, sums))| {
        let (group, row, rows) = groups.chunk(i);
        let chunk = Chunk {
            x: &x[row * width..][..rows * width],
            dy: &dy[row * width..][..rows * width],
            stats: &stats[2 * row..][..2 * rows],
            weight: affine.map(|(w, _)| w),
            scale: scale.map(|s| s.row(group)),
        };
        if width == 0 {
            return;
        }
        if let Some(dx) = dx {
            T::with_scratch(width, |g| chunk_dx(&chunk, dx, g));
        }
        if let Some(sums) = sums {
            let (plain, with_x) = sums.split_at_mut(width);
            chunk_sums(&chunk, plain, with_x);
        }
    });
    if let Some((dscale, dshift)) = grads.dmodulation {
        group_sums(&sums, groups, affine, output(dscale), output(dshift));
    }
    if let Some((dweight, dbias)) = grads.daffine {
        total_sums(&sums, groups, scale, output(dweight), output(dbias));
    }
    Ok(())
}

/// dscale ← Σ dy·(x̂·weight + bias) and dshift ← Σ dy, per group.
fn group_sums<T: Float>(sums: &[T], groups: Groups, affine: Pair<'_, T>, dscale: &mut [T], dshift: &mut [T]) {
    let width = groups.width;
    dscale.fill(T::ZERO);
    dshift.fill(T::ZERO);
    for (i, sums) in sums.chunks_exact(2 * width.max(1)).enumerate() {
        let at = groups.chunk(i).0 * width;
        add(&mut dshift[at..at + width], &sums[..width]);
        add(&mut dscale[at..at + width], &sums[width..]);
    }
    let Some((weight, bias)) = affine else { return };
    for (dscale, dshift) in dscale.chunks_exact_mut(width.max(1)).zip(dshift.chunks_exact(width.max(1))) {
        for c in 0..width {
            dscale[c] = dscale[c].fma(weight[c], bias[c] * dshift[c]);
        }
    }
}

/// dweight ← Σ dy·(1 + scale)·x̂ and dbias ← Σ dy·(1 + scale), over all rows.
fn total_sums<T: Float>(
    sums: &[T],
    groups: Groups,
    scale: Option<PerGroup<'_, T>>,
    dweight: &mut [T],
    dbias: &mut [T],
) {
    let width = groups.width;
    dweight.fill(T::ZERO);
    dbias.fill(T::ZERO);
    for (i, sums) in sums.chunks_exact(2 * width.max(1)).enumerate() {
        let (plain, with_x) = sums.split_at(width);
        let Some(scale) = scale.map(|s| s.row(groups.chunk(i).0)) else {
            add(dbias, plain);
            add(dweight, with_x);
            continue;
        };
        for c in 0..width {
            dbias[c] += plain[c] * (T::ONE + scale[c]);
            dweight[c] += with_x[c] * (T::ONE + scale[c]);
        }
    }
}

pub(crate) fn add<T: Real>(to: &mut [T], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
