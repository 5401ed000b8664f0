//! Products of batches of matrices of any strides.

use transdiff_core::{Layout, Result, backend::Storage};

use crate::cublaslt::Matrix;
use crate::device::{Address, Cuda, In, Out};
use crate::gemm::{Factor, Gemm};
use crate::storage::gathered;

/// A batch of matrices as cuBLASLt takes it: rows or columns without gaps, and one step from a matrix to the next.
fn factor(x: &In<'_>) -> Option<Factor> {
    let (shape, strides) = (x.layout.shape(), x.layout.strides());
    let lead = shape.len() - 2;
    let ([rows, cols], [down, across]) = ([shape[lead], shape[lead + 1]], [strides[lead], strides[lead + 1]]);
    let batch_stride = step(&shape[..lead], &strides[..lead])?;
    let matrix = if (across == 1 || cols == 1) && (down >= cols || rows == 1) {
        Matrix { rows, cols, stride: down.max(cols), batch_stride, transposed: false }
    } else if (down == 1 || rows == 1) && (across >= rows || cols == 1) {
        Matrix { rows: cols, cols: rows, stride: across.max(rows), batch_stride, transposed: true }
    } else {
        return None;
    };
    Some(Factor { matrix, address: x.address() })
}

/// The step with which all axes can be walked as one.
fn step(shape: &[usize], strides: &[usize]) -> Option<usize> {
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
    let mut prepared = |x: In<'_>| match factor(&x) {
        Some(factor) => Ok(factor),
        None => {
            let (copy, layout) = (gathered(cuda, x)?, Layout::contiguous(x.layout.shape()));
            let found = factor(&In { buffer: &copy, layout: &layout, dtype: x.dtype });
            copies.push(copy);
            transdiff_core::Result::Ok(found.expect("a contiguous batch has one step"))
        }
    };
    let (a, b) = (prepared(a)?, prepared(b)?);
    let mut c = Factor::new(out.address(), m, n);
    c.matrix.batch_stride = m * n;
    Gemm { dtype: out.dtype, result: out.dtype, a, b, c, batch }.plain(cuda, OP)
}
