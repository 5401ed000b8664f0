//! Batched matrix products of any strides.

use transdiff_core::{Layout, Result, backend::Storage};

use crate::cublaslt::Matrix;
use crate::device::{Address, Cuda, In, Out};
use crate::gemm::{Gemm, Operand};
use crate::storage::contiguous_copy;

/// A batch of matrices as a cuBLASLt operand: contiguous rows or columns, and one stride between matrices. `None` if
/// the strides do not allow it.
fn operand(x: &In<'_>) -> Option<Operand> {
    let (shape, strides) = (x.layout.shape(), x.layout.strides());
    let lead = shape.len() - 2;
    let ([rows, cols], [down, across]) = ([shape[lead], shape[lead + 1]], [strides[lead], strides[lead + 1]]);
    let batch_stride = merged_stride(&shape[..lead], &strides[..lead])?;
    let matrix = if (across == 1 || cols == 1) && (down >= cols || rows == 1) {
        Matrix { rows, cols, stride: down.max(cols), batch_stride, transposed: false }
    } else if (down == 1 || rows == 1) && (across >= rows || cols == 1) {
        Matrix { rows: cols, cols: rows, stride: across.max(rows), batch_stride, transposed: true }
    } else {
        return None;
    };
    Some(Operand { matrix, address: x.address() })
}

/// The stride with which all axes can be iterated as one.
fn merged_stride(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let mut axes = shape.iter().zip(strides).rev().filter(|&(&n, _)| n != 1).map(|(&n, &s)| (n, s));
    let Some((n, step)) = axes.next() else { return Some(0) };
    let mut next = n * step;
    for (n, stride) in axes {
        if stride != next {
            return None;
        }
        next *= n;
    }
    Some(step)
}

pub(crate) fn matmul(cuda: &Cuda, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
    const OP: &str = "matmul";
    let shape = out.layout.shape();
    let lead = shape.len() - 2;
    let (m, n, k) = (shape[lead], shape[lead + 1], a.layout.shape()[lead + 1]);
    let batch: usize = shape[..lead].iter().product();
    if out.layout.numel() == 0 {
        return Ok(());
    }
    if k == 0 {
        return cuda.fill(0.0, out);
    }
    let mut copies = Vec::new();
    let mut prepare = |x: In<'_>| match operand(&x) {
        Some(operand) => Ok(operand),
        None => {
            let (copy, layout) = (contiguous_copy(cuda, x)?, Layout::contiguous(x.layout.shape()));
            let found = operand(&In { buffer: &copy, layout: &layout, dtype: x.dtype });
            copies.push(copy);
            transdiff_core::Result::Ok(found.expect("a contiguous batch has one stride"))
        }
    };
    let (a, b) = (prepare(a)?, prepare(b)?);
    let mut c = Operand::new(out.address(), m, n);
    c.matrix.batch_stride = m * n;
    Gemm { dtype: out.dtype, result: out.dtype, a, b, c, batch }.run_default(cuda, OP)
}
