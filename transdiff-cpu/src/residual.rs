//! Gated residuals with dropout.

use transdiff_core::Result;
use transdiff_core::backend::{View, ViewMut};
use transdiff_core::rng::Dropout;

use crate::device::Cpu;
use crate::element::Real;
use crate::memory::zeros;
use crate::norm::{Groups, PerGroup, add, optional};
use crate::random::scale_by_mask;
use crate::view::{Float, input, output};

simd! {
    /// y ← x + gate·y, row by row.
    fn add_gated<T: Real>(x: &[T], gate: Option<&[T]>, y: &mut [T], width: usize) {
        let Some(gate) = gate else {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += x;
            }
            return;
        };
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for ((y, &x), &g) in y.iter_mut().zip(x).zip(gate) {
                *y = y.fma(g, x);
            }
        }
    }
}

simd! {
    /// With du = dropout(dy): sums ← Σ u·du over the rows, then du ← gate·du. The mask is the same for u and dy, so
    /// dropout(u)·dy is u·dropout(dy).
    fn gate_backward<T: Real>(u: &[T], gate: &[T], du: &mut [T], mut sums: Option<&mut [T]>) {
        let width = gate.len();
        for (u, du) in u.chunks_exact(width).zip(du.chunks_exact_mut(width)) {
            if let Some(sums) = sums.as_deref_mut() {
                for ((s, &u), &du) in sums.iter_mut().zip(u).zip(&*du) {
                    *s = u.fma(du, *s);
                }
            }
            for (du, &g) in du.iter_mut().zip(gate) {
                *du *= g;
            }
        }
    }
}

pub(crate) fn forward<T: Float>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    u: View<'_, Cpu>,
    gate: Option<View<'_, Cpu>>,
    dropout: Option<Dropout>,
    y: ViewMut<'_, Cpu>,
) -> Result<()> {
    let groups = Groups::new(x.layout.shape());
    let width = groups.width;
    let (x, u) = (input::<T>(&x), input::<T>(&u));
    let gate = gate.as_ref().map(PerGroup::<T>::new);
    if width == 0 {
        return Ok(());
    }
    let y = groups.split(output::<T>(y), width);
    cpu.for_each((0..groups.chunks).zip(y), cost(&groups, dropout), |(i, y)| {
        let (group, row, rows) = groups.chunk(i);
        let (from, len) = (row * width, rows * width);
        y.copy_from_slice(&u[from..from + len]);
        if let Some(dropout) = &dropout {
            scale_by_mask(dropout, u.len(), from, y);
        }
        add_gated(&x[from..from + len], gate.map(|g| g.row(group)), y, width);
    });
    Ok(())
}

fn cost(groups: &Groups, dropout: Option<Dropout>) -> usize {
    groups.elements() / if dropout.is_some() { 1 } else { 2 }
}

pub(crate) fn backward<T: Float>(
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
    let (u, dy) = (input::<T>(&u), input::<T>(&dy));
    let gate = gate.as_ref().map(PerGroup::<T>::new);
    if width == 0 {
        return Ok(());
    }
    let mut sums = zeros("gated_residual_backward", if dgate.is_some() { groups.chunks * width } else { 0 })?;
    let du = groups.split(output::<T>(du), width);
    let each = du.zip(optional(dgate.is_some().then(|| sums.chunks_exact_mut(width))));
    cpu.for_each((0..groups.chunks).zip(each), cost(&groups, dropout), |(i, (du, sums))| {
        let (group, row, rows) = groups.chunk(i);
        let (from, len) = (row * width, rows * width);
        du.copy_from_slice(&dy[from..from + len]);
        if let Some(dropout) = &dropout {
            scale_by_mask(dropout, u.len(), from, du);
        }
        if let Some(gate) = gate {
            gate_backward(&u[from..from + len], gate.row(group), du, sums);
        }
    });
    if let Some(dgate) = dgate {
        let dgate = output::<T>(dgate);
        dgate.fill(T::ZERO);
        for (i, sums) in sums.chunks_exact(width).enumerate() {
            add(&mut dgate[groups.chunk(i).0 * width..][..width], sums);
        }
    }
    Ok(())
}
