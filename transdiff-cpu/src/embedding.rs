//! Embedding: rows of a table, and the sum of their gradients into it.

use transdiff_core::Result;
use transdiff_core::backend::{View, ViewMut};

use crate::device::Cpu;
use crate::memory::zeros;
use crate::view::{Float, input, output, store};

pub(crate) fn forward<T: Float>(
    table: View<'_, Cpu>,
    ids: View<'_, Cpu>,
    out: ViewMut<'_, Cpu>,
) -> Result<()> {
    let width = table.layout.shape()[1];
    let (table, out) = (input::<T>(&table), output::<T>(out));
    for (out, &id) in out.chunks_exact_mut(width.max(1)).zip(input::<i32>(&ids)) {
        out.copy_from_slice(&table[id as usize * width..][..width]);
    }
    Ok(())
}

pub(crate) fn backward<T: Float>(
    ids: View<'_, Cpu>,
    dy: View<'_, Cpu>,
    dtable: ViewMut<'_, Cpu>,
) -> Result<()> {
    let width = dtable.layout.shape()[1];
    let (dy, dtable) = (input::<T>(&dy), output::<T>(dtable));
    let mut sums = zeros::<T::Real>("embedding_backward", dtable.len())?;
    for (dy, &id) in dy.chunks_exact(width.max(1)).zip(input::<i32>(&ids)) {
        for (sum, &dy) in sums[id as usize * width..][..width].iter_mut().zip(dy) {
            *sum += dy.real();
        }
    }
    store(&sums, dtable);
    Ok(())
}
