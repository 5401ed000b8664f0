//! Matrix products over the last two axes.

use std::sync::{Mutex, PoisonError};

use transdiff_core::backend::{View, ViewMut};
use transdiff_core::{Layout, Result};

use crate::device::Cpu;
use crate::gemm::{Gemm, NoEpilogue, Operand};
use crate::view::output;

/// Positions of the matrices of a stack, and the strides of their rows and columns.
fn matrices(layout: &Layout) -> (Vec<usize>, [usize; 2]) {
    let lead = layout.rank() - 2;
    let outer = Layout::new(&layout.shape()[..lead], &layout.strides()[..lead], layout.offset());
    let mut starts = Vec::with_capacity(outer.numel());
    outer.for_each_position(|p| starts.push(p));
    (starts, [layout.strides()[lead], layout.strides()[lead + 1]])
}

pub(crate) fn matmul<T: Gemm>(
    cpu: &Cpu,
    a: View<'_, Cpu>,
    b: View<'_, Cpu>,
    out: ViewMut<'_, Cpu>,
) -> Result<()> {
    let rank = a.layout.rank();
    let size = [a.layout.shape()[rank - 2], a.layout.shape()[rank - 1], b.layout.shape()[rank - 1]];
    let ((a_starts, a_strides), (b_starts, b_strides)) = (matrices(a.layout), matrices(b.layout));
    let (a, b) = (T::slice(a.buffer), T::slice(b.buffer));
    let area = size[0] * size[2];
    let one = |i: usize, c: &mut [T]| {
        let (a, b) = (Operand::new(&a[a_starts[i]..], a_strides), Operand::new(&b[b_starts[i]..], b_strides));
        T::gemm(cpu, size, a, b, c, &NoEpilogue)
    };
    let mut products = output::<T>(out).chunks_exact_mut(area.max(1)).enumerate();
    // Many products are shared out whole; few are partitioned by the driver.
    if a_starts.len() >= cpu.threads() {
        let failed = Mutex::new(Ok(()));
        cpu.for_each(products, a_starts.len() * area * size[1] / 40, |(i, c)| {
            if let Err(e) = one(i, c) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Err(e);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    } else {
        products.try_for_each(|(i, c)| one(i, c))
    }
}
