//! Sums over axes.

use transdiff_core::backend::{View, ViewMut};
use transdiff_core::{Layout, Result};

use crate::device::Cpu;
use crate::element::Real;
use crate::row_sums::{LANES, fold, sum1};
use crate::view::{Float, output};

/// Number of columns that are summed side by side.
const COLUMNS: usize = 256;
/// Number of rows whose sum is formed before it is added to the total, so that rounding errors grow with the square root
/// of the length of a column.
const ROWS: usize = 64;

/// Positions that an output element sums over: an inner axis of `len` elements at `step`, at each of `starts`.
struct Summed {
    starts: Vec<usize>,
    len: usize,
    step: usize,
}

impl Summed {
    /// Positions of the summed axes, given as (size, stride).
    fn new(mut axes: Vec<(usize, usize)>) -> Self {
        axes.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(axes.len());
        for (size, stride) in axes {
            match merged.last_mut() {
                Some(last) if last.1 == stride * size => *last = (last.0 * size, stride),
                _ => merged.push((size, stride)),
            }
        }
        let (len, step) = merged.pop().unwrap_or((1, 1));
        Self { starts: positions(&merged), len, step }
    }
}

fn positions(axes: &[(usize, usize)]) -> Vec<usize> {
    let (shape, strides): (Vec<_>, Vec<_>) = axes.iter().copied().unzip();
    let mut out = Vec::with_capacity(shape.iter().product());
    Layout::new(&shape, &strides, 0).for_each_position(|p| out.push(p));
    out
}

simd! {
    fn sum_contiguous<T: Float>(x: &[T]) -> T::Real {
        sum1(x, T::real)
    }
}

fn sum_strided<T: Float>(x: &[T], len: usize, step: usize) -> T::Real {
    let mut lanes = [T::Real::ZERO; LANES];
    for i in 0..len {
        lanes[i % LANES] += x[i * step].real();
    }
    fold(lanes)
}

simd! {
    /// out[j] ← Σ over `starts` s of x[s + j].
    fn sum_columns<T: Float>(x: &[T], starts: &mut dyn Iterator<Item = usize>, out: &mut [T]) {
        let (mut part, mut total) = ([T::Real::ZERO; COLUMNS], [T::Real::ZERO; COLUMNS]);
        let width = out.len();
        let (part, total) = (&mut part[..width], &mut total[..width]);
        let mut pending = 0;
        for start in starts {
            for (part, &x) in part.iter_mut().zip(&x[start..start + width]) {
                *part += x.real();
            }
            pending += 1;
            if pending == ROWS {
                flush(part, total);
                pending = 0;
            }
        }
        flush(part, total);
        for (out, &total) in out.iter_mut().zip(&*total) {
            *out = T::rounded(total);
        }
    }
}

#[inline(always)]
fn flush<T: Real>(part: &mut [T], out: &mut [T]) {
    for (out, part) in out.iter_mut().zip(part) {
        *out += *part;
        *part = T::ZERO;
    }
}

/// out[j] ← Σ over rows of x[row, j], for x [rows, out.len()] without gaps.
pub(crate) fn column_sums<T: Float>(cpu: &Cpu, x: &[T], out: &mut [T]) {
    let width = out.len();
    if width == 0 {
        return;
    }
    cpu.chunks(out, COLUMNS, x.len() / 4, |from, out| {
        sum_columns(x, &mut (0..x.len() / width).map(|row| row * width + from), out);
    });
}

pub(crate) fn sum<T: Float>(cpu: &Cpu, x: View<'_, Cpu>, out: ViewMut<'_, Cpu>) -> Result<()> {
    let axes =
        || x.layout.shape().iter().copied().zip(x.layout.strides().iter().copied()).zip(out.layout.shape());
    let summed: Vec<_> = axes().filter(|((n, _), m)| *n != **m).map(|(axis, _)| axis).collect();
    let kept: Vec<_> = axes().filter(|((n, _), m)| *n == **m && *n != 1).map(|(axis, _)| axis).collect();
    let (numel, data) = (x.layout.numel(), T::slice(x.buffer));
    let out = output::<T>(out);
    if numel == 0 || out.is_empty() {
        out.fill(T::rounded(T::Real::ZERO));
        return Ok(());
    }
    let summed = Summed::new(summed);
    let data = &data[x.layout.offset()..];
    match kept.split_last() {
        Some((&(width, 1), outer)) if width > 1 => {
            by_columns(cpu, data, &summed, width, &positions(outer), out)
        }
        _ => by_elements(cpu, data, &summed, &positions(&kept), out),
    }
    Ok(())
}

/// Sums for a contiguous last kept axis: whole runs of it are added.
fn by_columns<T: Float>(cpu: &Cpu, x: &[T], summed: &Summed, width: usize, rows: &[usize], out: &mut [T]) {
    let cost = out.len() * summed.starts.len() * summed.len / 4;
    let sum_run = |row: usize, from: usize, out: &mut [T]| {
        let inner = |&start: &usize| (0..summed.len).map(move |i| start + i * summed.step);
        sum_columns(x, &mut summed.starts.iter().flat_map(inner).map(|p| rows[row] + from + p), out);
    };
    if rows.len() == 1 {
        cpu.chunks(out, COLUMNS, cost, |from, out| sum_run(0, from, out));
    } else {
        cpu.chunks(out, width, cost, |at, out| {
            for (i, out) in out.chunks_mut(COLUMNS).enumerate() {
                sum_run(at / width, i * COLUMNS, out);
            }
        });
    }
}

fn by_elements<T: Float>(cpu: &Cpu, x: &[T], summed: &Summed, kept: &[usize], out: &mut [T]) {
    let cost = out.len() * summed.starts.len() * summed.len;
    cpu.chunks(out, 64, cost, |from, out| {
        for (out, &at) in out.iter_mut().zip(&kept[from..]) {
            let run = |&start: &usize| match summed.step {
                1 => sum_contiguous(&x[at + start..][..summed.len]),
                step => sum_strided(&x[at + start..], summed.len, step),
            };
            *out = T::rounded(summed.starts.iter().map(run).fold(T::Real::ZERO, |a, b| a + b));
        }
    });
}
