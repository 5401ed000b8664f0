//! Gated residuals with dropout.

use transdiff_core::Result;
use transdiff_core::backend::{View, ViewMut};
use transdiff_core::rng::Dropout;

use crate::device::Cpu;
use crate::element::Real;
use crate::memory::zeros;
use crate::norm::{Groups, PerGroup, optional};
use crate::random::scale_by_mask;
use crate::scratch::Scratch;
use crate::view::{Float, input, load, output, store};

simd! {
    /// y ← x + gate·u, row by row.
    fn add_gated<S: Float<Real = T::Real>, T: Float>(
        x: &[S], u: &[T::Real], gate: Option<&[T]>, y: &mut [S], width: usize,
    ) {
        let Some(gate) = gate else {
            for ((y, &x), &u) in y.iter_mut().zip(x).zip(u) {
                *y = S::rounded(u + x.real());
            }
            return;
        };
        let rows = x.chunks_exact(width).zip(u.chunks_exact(width)).zip(y.chunks_exact_mut(width));
        for ((x, u), y) in rows {
            for (((y, &x), &u), &g) in y.iter_mut().zip(x).zip(u).zip(gate) {
                *y = S::rounded(u.fma(g.real(), x.real()));
            }
        }
    }
}

simd! {
    /// Given d = dropout(dy): sums ← Σ u·d over the rows, and du ← gate·d. The mask is the same for u and dy, so
    /// dropout(u)·dy is u·dropout(dy).
    fn gate_backward<T: Float>(u: &[T], d: &[T::Real], gate: &[T], du: &mut [T], mut sums: Option<&mut [T::Real]>) {
        let width = gate.len();
        for ((u, d), du) in u.chunks_exact(width).zip(d.chunks_exact(width)).zip(du.chunks_exact_mut(width)) {
            if let Some(sums) = sums.as_deref_mut() {
                for ((s, &u), &d) in sums.iter_mut().zip(u).zip(d) {
                    *s = u.real().fma(d, *s);
                }
            }
            for ((du, &d), &g) in du.iter_mut().zip(d).zip(gate) {
                *du = T::rounded(d * g.real());
            }
        }
    }
}

/// Calls `f` with dropout(x) for the elements `from..from + len` of x.
fn with_dropped<T: Float>(
    x: &[T],
    [from, len]: [usize; 2],
    dropout: Option<&Dropout>,
    f: impl FnOnce(&[T::Real]),
) {
    T::Real::with_scratch(len, |out| {
        load(&x[from..from + len], out);
        if let Some(dropout) = dropout {
            scale_by_mask(dropout, x.len(), from, out);
        }
        f(out);
    });
}

pub(crate) fn forward<S: Float<Real = T::Real>, T: Float>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    u: View<'_, Cpu>,
    gate: Option<View<'_, Cpu>>,
    dropout: Option<Dropout>,
    y: ViewMut<'_, Cpu>,
) -> Result<()> {
    let groups = Groups::new(x.layout.shape());
    let width = groups.width;
    let (x, u) = (input::<S>(&x), input::<T>(&u));
    let gate = gate.as_ref().map(PerGroup::<T>::new);
    if width == 0 {
        return Ok(());
    }
    let y = groups.split(output::<S>(y), width);
    cpu.for_each((0..groups.chunks).zip(y), cost(&groups, dropout), |(i, y)| {
        let (group, row, rows) = groups.chunk(i);
        let (from, len) = (row * width, rows * width);
        with_dropped(u, [from, len], dropout.as_ref(), |u| {
            add_gated(&x[from..from + len], u, gate.map(|g| g.row(group)), y, width);
        });
    });
    Ok(())
}

fn cost(groups: &Groups, dropout: Option<Dropout>) -> usize {
    groups.elements() / if dropout.is_some() { 1 } else { 2 }
}

pub(crate) fn backward<S: Float<Real = T::Real>, T: Float>(
    cpu: &Cpu,
    u: View<'_, Cpu>,
    gate: Option<View<'_, Cpu>>,
    dropout: Option<Dropout>,
    dy: View<'_, Cpu>,
    du: ViewMut<'_, Cpu>,
    dgate: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let groups = Groups::new(u.layout.shape());
    let width = groups.width;
    let (u, dy) = (input::<T>(&u), input::<S>(&dy));
    let gate = gate.as_ref().map(PerGroup::<T>::new);
    if width == 0 {
        return Ok(());
    }
    let mut sums =
        zeros::<T::Real>("gated_residual_backward", if dgate.is_some() { groups.chunks * width } else { 0 })?;
    let du = groups.split(output::<T>(du), width);
    let each = du.zip(optional(dgate.is_some().then(|| sums.chunks_exact_mut(width))));
    cpu.for_each((0..groups.chunks).zip(each), cost(&groups, dropout), |(i, (du, sums))| {
        let (group, row, rows) = groups.chunk(i);
        let (from, len) = (row * width, rows * width);
        with_dropped(dy, [from, len], dropout.as_ref(), |d| match gate {
            Some(gate) => gate_backward(&u[from..from + len], d, gate.row(group), du, sums),
            None => store(d, du),
        });
    });
    if let Some(dgate) = dgate {
        store(&groups.totals(sums.chunks_exact(width))?, output::<T>(dgate));
    }
    Ok(())
}
