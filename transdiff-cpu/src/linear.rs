//! Linear layers with bias and activation.

use std::ops::Range;

use transdiff_core::backend::{Activation, LinearGrads, Storage, View, ViewMut};
use transdiff_core::{DType, Layout, Result};

use crate::activation::{gelu, gelu_slope};
use crate::buffer::{Buffer, Stored};
use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::Real;
use crate::gemm::{Epilogue, Gemm, NoEpilogue, Operand};
use crate::int8_panels::Int8Panels;
use crate::random::scale_by_mask;
use crate::reduce::column_sums;
use crate::scratch::Scratch;
use crate::view::{Float, input, load, output, store};

/// Elements per task of an elementwise pass.
const CHUNK: usize = 1 << 13;

simd! {
    fn add_bias<T: Float>(y: &mut [T::Real], bias: &[T]) {
        for (y, &b) in y.iter_mut().zip(bias) {
            *y += b.real();
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
    /// pre ← y + bias, y ← GELU(pre).
    fn bias_gelu<T: Float>(y: &mut [T::Real], bias: &[T], pre: &mut [T]) {
        for ((y, &b), pre) in y.iter_mut().zip(bias).zip(pre) {
            let sum = *y + b.real();
            *pre = T::rounded(sum);
            *y = gelu(sum);
        }
    }
}

simd! {
    fn gelu_backward<T: Float>(pre: &[T], dy: &[T::Real], g: &mut [T]) {
        for ((g, &x), &dy) in g.iter_mut().zip(pre).zip(dy) {
            *g = T::rounded(gelu_slope(x.real()) * dy);
        }
    }
}

/// The weight as a matrix N×K.
fn weight<'a, T: Stored>(w: &View<'a, Cpu>) -> Operand<'a, T> {
    let shape = w.layout.shape();
    let strides = if is_transposed(w.layout) { [1, shape[0]] } else { [shape[1], 1] };
    Operand::new(input(w), strides)
}

/// The weight in 8-bit integers, if it is quantised and the view is all of it.
fn quantized<'a>(w: &View<'a, Cpu>) -> Option<&'a Int8Panels> {
    let whole = |panels: &&Int8Panels| {
        w.layout.offset() == 0 && w.layout.is_contiguous() && *w.layout.shape() == panels.shape()
    };
    w.buffer.int8().filter(whole)
}

/// Returns true if a matrix without gaps lies in memory column by column. Strides of axes of size 1 are ignored: they
/// may be 0.
fn is_transposed(layout: &Layout) -> bool {
    let (shape, strides) = (layout.shape(), layout.strides());
    shape[0] > 1 && strides[0] == 1 && shape[1] > 1
}

/// Epilogue that adds the bias and applies the activation.
struct BiasActivation<'a, T> {
    bias: Option<&'a [T]>,
    /// The sums with the bias, [M, N].
    pre: Option<DisjointSlice<'a, T>>,
    activation: Activation,
    width: usize,
}

impl<T: Float> Epilogue<T::Real> for BiasActivation<'_, T> {
    fn apply(&self, row: usize, columns: Range<usize>, y: &mut [T::Real]) {
        // SAFETY: the same part as `y` is of the product, which no other thread writes.
        let mut pre = self.pre.map(|pre| unsafe { pre.part(row * self.width + columns.start, y.len()) });
        let bias = self.bias.map(|bias| &bias[columns]);
        let gelu = self.activation != Activation::None;
        if let (Some(bias), Some(pre), true) = (bias, pre.as_deref_mut(), gelu) {
            return bias_gelu(y, bias, pre);
        }
        if let Some(bias) = bias {
            add_bias(y, bias);
        }
        if let Some(pre) = pre {
            store(y, pre);
        }
        if gelu {
            gelu_in_place(y);
        }
    }
}

pub(crate) fn forward<T: Gemm>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    w: View<'_, Cpu>,
    b: Option<View<'_, Cpu>>,
    act: Activation,
    mut y: ViewMut<'_, Cpu>,
    pre: Option<ViewMut<'_, Cpu>>,
) -> Result<()> {
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    let epilogue = BiasActivation {
        bias: b.as_ref().map(input::<T>),
        pre: pre.map(|p| DisjointSlice::new(output::<T>(p))),
        activation: act,
        width: n,
    };
    if let Some(panels) = quantized(&w) {
        T::gemm_int8(cpu, m, input(&x), panels, output(reborrow(&mut y)), &epilogue);
    } else {
        let x = Operand::rows(input(&x), k);
        T::gemm(cpu, [m, k, n], x, weight(&w).transposed(), output(reborrow(&mut y)), &epilogue)?;
    }
    if let Some(dropout) = act.dropout() {
        // In a pass of its own: the tiles of a product are narrower than what the mask is computed for at a time.
        let y = output::<T>(y);
        let len = y.len();
        cpu.chunks(y, CHUNK, len, |from, y| {
            T::Real::with_scratch(y.len(), |dropped| {
                load(y, dropped);
                scale_by_mask(&dropout, len, from, dropped);
                store(dropped, y);
            });
        });
    }
    Ok(())
}

fn reborrow<'a>(out: &'a mut ViewMut<'_, Cpu>) -> ViewMut<'a, Cpu> {
    ViewMut { buffer: &mut *out.buffer, layout: out.layout, dtype: out.dtype }
}

pub(crate) fn backward<T: Gemm>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    w: View<'_, Cpu>,
    act: Activation,
    pre: Option<View<'_, Cpu>>,
    dy: View<'_, Cpu>,
    grads: LinearGrads<'_, Cpu>,
) -> Result<()> {
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    let dy = input::<T>(&dy);
    let scratch = pre.map(|pre| slope_times(cpu, pre.dtype, act, input(&pre), dy)).transpose()?;
    let g = Operand::rows(scratch.as_ref().map_or(dy, T::slice), n);
    if let Some(dx) = grads.dx {
        T::gemm(cpu, [m, n, k], g, weight(&w), output(dx), &NoEpilogue)?;
    }
    if let Some(dw) = grads.dw {
        let x = Operand::rows(input(&x), k);
        if is_transposed(dw.layout) {
            // dwᵀ = xᵀ g has rows without gaps.
            T::gemm(cpu, [k, m, n], x.transposed(), g, output(dw), &NoEpilogue)?;
        } else {
            T::gemm(cpu, [n, m, k], g.transposed(), x, output(dw), &NoEpilogue)?;
        }
    }
    if let Some(db) = grads.db {
        column_sums(cpu, g.data, output(db));
    }
    Ok(())
}

/// act′(pre) · dy.
fn slope_times<T: Float>(cpu: &Cpu, dtype: DType, act: Activation, pre: &[T], dy: &[T]) -> Result<Buffer> {
    let mut g = cpu.alloc(dtype, dy.len())?;
    cpu.chunks(T::slice_mut(&mut g), CHUNK, dy.len(), |from, g| {
        T::Real::with_scratch(g.len(), |dropped| {
            load(&dy[from..from + g.len()], dropped);
            if let Some(dropout) = act.dropout() {
                scale_by_mask(&dropout, dy.len(), from, dropped);
            }
            gelu_backward(&pre[from..from + g.len()], dropped, g);
        });
    });
    Ok(g)
}
