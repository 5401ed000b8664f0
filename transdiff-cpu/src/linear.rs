//! Linear layers with bias and activation.

use transdiff_core::backend::{Activation, LinearGrads, Storage, View, ViewMut};
use transdiff_core::{DType, Result};

use crate::Cpu;
use crate::element::{Element, Real, input, output};
use crate::gemm::{Operand, gemm};
use crate::math::{gelu, gelu_slope};
use crate::pool::Shared;
use crate::reduce::column_sums;
use crate::storage::Buffer;

simd! {
    fn add_bias<T: Real>(y: &mut [T], bias: &[T]) {
        for (y, &b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

simd! {
    fn gelu_in_place<T: Real>(y: &mut [T]) {
        for y in y {
            *y = gelu(*y);
        }
    }
}

simd! {
    fn gelu_backward<T: Real>(pre: &[T], dy: &[T], g: &mut [T]) {
        for ((g, &x), &dy) in g.iter_mut().zip(pre).zip(dy) {
            *g = gelu_slope(x) * dy;
        }
    }
}

/// The weight as a matrix N×K.
fn weight<'a, T: Element>(w: &View<'a, Cpu>) -> Operand<'a, T> {
    Operand::new(input(w), dense_strides(w.layout.shape(), w.layout.strides()))
}

/// Strides of a matrix without gaps. Those of axes of size 1 say nothing, and may be 0.
fn dense_strides(shape: &[usize], strides: &[usize]) -> [usize; 2] {
    let by_columns = shape[0] > 1 && strides[0] == 1 && shape[1] > 1;
    if by_columns { [1, shape[0]] } else { [shape[1], 1] }
}

pub(crate) fn forward<T: Real>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    w: View<'_, Cpu>,
    b: Option<View<'_, Cpu>>,
    act: Activation,
    y: ViewMut<'_, Cpu>,
    pre: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    let bias = b.as_ref().map(input::<T>);
    let pre = pre.map(|p| Shared::new(output::<T>(p)));
    let y = Shared::new(output::<T>(y));
    let finish = |row: usize, from: usize, len: usize| {
        // SAFETY: this part of a row belongs to the block of the product that was just computed.
        let y = unsafe { y.part(row * n + from, len) };
        if let Some(bias) = bias {
            add_bias(y, &bias[from..from + len]);
        }
        if let Some(pre) = pre {
            // SAFETY: as above.
            unsafe { pre.part(row * n + from, len) }.copy_from_slice(y);
        }
        if act == Activation::Gelu {
            gelu_in_place(y);
        }
    };
    let a = Operand::rows(input(&x), k);
    gemm(cpu, [m, k, n], a, weight(&w).transposed(), (y, [n, 1]), |rows, cols| {
        rows.for_each(|row| finish(row, cols.start, cols.len()));
    });
    Ok(())
}

pub(crate) fn backward<T: Real>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    w: View<'_, Cpu>,
    pre: Option<View<'_, Cpu>>,
    dy: View<'_, Cpu>,
    grads: LinearGrads<'_, Cpu>,
) -> Result<()> {
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    let dy = input::<T>(&dy);
    let scratch = pre.map(|pre| slope_times(cpu, pre.dtype, input(&pre), dy)).transpose()?;
    let g = Operand::rows(scratch.as_ref().map_or(dy, T::slice), n);
    if let Some(dx) = grads.dx {
        gemm(cpu, [m, n, k], g, weight(&w), (Shared::new(output(dx)), [k, 1]), |_, _| ());
    }
    if let Some(dw) = grads.dw {
        let strides = dense_strides(dw.layout.shape(), dw.layout.strides());
        let x = Operand::rows(input(&x), k);
        gemm(cpu, [n, m, k], g.transposed(), x, (Shared::new(output(dw)), strides), |_, _| ());
    }
    if let Some(db) = grads.db {
        column_sums(cpu, g.data, output(db));
    }
    Ok(())
}

/// act′(pre) · dy.
fn slope_times<T: Real>(cpu: &Cpu, dtype: DType, pre: &[T], dy: &[T]) -> Result<Buffer> {
    let mut g = cpu.alloc(dtype, dy.len())?;
    cpu.chunks(T::slice_mut(&mut g), 1 << 13, dy.len(), |from, g| {
        gelu_backward(&pre[from..from + g.len()], &dy[from..from + g.len()], g);
    });
    Ok(g)
}
