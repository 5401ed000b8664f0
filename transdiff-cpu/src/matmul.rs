//! Matrix products over the last two axes.

use transdiff_core::backend::{View, ViewMut};
use transdiff_core::{Layout, Result};

use crate::Cpu;
use crate::element::{Real, output};
use crate::gemm::{Operand, gemm};
use crate::pool::Shared;

/// Positions of the matrices of a stack, and the strides of their rows and columns.
fn matrices(layout: &Layout) -> (Vec<usize>, [usize; 2]) {
    let lead = layout.rank() - 2;
    let outer = Layout::new(&layout.shape()[..lead], &layout.strides()[..lead], layout.offset());
    let mut starts = Vec::with_capacity(outer.numel());
    outer.for_each_position(|p| starts.push(p));
    (starts, [layout.strides()[lead], layout.strides()[lead + 1]])
}

pub(crate) fn matmul<T: Real>(
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
    let shared = Shared::new(output::<T>(out));
    let one = |i: usize| {
        // SAFETY: each matrix of the output belongs to one call.
        let c = unsafe { shared.part(i * area, area) };
        let (a, b) = (Operand::new(&a[a_starts[i]..], a_strides), Operand::new(&b[b_starts[i]..], b_strides));
        gemm(cpu, size, a, b, (Shared::new(c), [size[2], 1]), |_, _| ());
    };
    // Many products are shared out whole; few are cut.
    if a_starts.len() >= cpu.threads() {
        cpu.run(a_starts.len(), a_starts.len() * area * size[1] / 40, one);
    } else {
        (0..a_starts.len()).for_each(one);
    }
    Ok(())
}
