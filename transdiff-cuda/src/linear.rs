//! Linear layers: matrix products by cuBLASLt, with bias, GELU and bias gradient as epilogues where it has them.

mod epilogue;

use transdiff_core::backend::{Activation, LinearGrads};
use transdiff_core::{DType, Result};

use crate::cublaslt::Epilogue;
use crate::device::{Address, Cuda, In, Out};
use crate::gemm::{Gemm, Operand};

/// The weight [N, K], row-major or column-major.
fn weight(address: u64, layout: &transdiff_core::Layout) -> Operand {
    let (n, k) = (layout.shape()[0], layout.shape()[1]);
    if layout.is_contiguous() { Operand::new(address, n, k) } else { Operand::new(address, k, n).t() }
}

pub(crate) fn forward(
    cuda: &Cuda,
    x: In<'_>,
    w: In<'_>,
    b: Option<In<'_>>,
    act: Activation,
    y: Out<'_>,
    pre: Option<Out<'_>>,
) -> Result<()> {
    const OP: &str = "linear";
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let (y, bias) = (y.address(), b.as_ref().map(Address::address));
    let (gelu, dropout) = (act != Activation::None, act.dropout());
    // Destination of product and bias, which the activation reads.
    let sum = pre.as_ref().map_or(y, Address::address);
    if k == 0 {
        let _guard = cuda.lock(OP)?;
        cuda.device.driver.zero(OP, sum, m * n * x.dtype.size())?;
        bias.map_or(Ok(()), |bias| epilogue::add_bias(cuda, x.dtype, [m, n], bias, sum))?;
    } else {
        let (a, b) = (Operand::new(x.address(), m, k), weight(w.address(), w.layout).t());
        let gemm = Gemm { dtype: x.dtype, result: x.dtype, a, b, c: Operand::new(sum, m, n), batch: 1 };
        let exact = || {
            with_bias(&gemm, cuda, bias)?;
            if gelu { epilogue::gelu(cuda, x.dtype, m * n, dropout, [sum, y]) } else { Ok(()) }
        };
        return match bias {
            // cuBLASLt's epilogue is the tanh form, which differs from the exact form by up to 5e-4. That is below the
            // rounding of bf16 for values above 0.13, so it is used in bf16 where only the result is needed.
            Some(bias) if act == Activation::Gelu && pre.is_none() && x.dtype == DType::BF16 => {
                gemm.run_fused_or(cuda, OP, Epilogue::BiasGelu, (bias, n), exact)
            }
            _ => exact(),
        };
    }
    if gelu { epilogue::gelu(cuda, x.dtype, m * n, dropout, [sum, y]) } else { Ok(()) }
}

/// Product, and bias if there is one.
fn with_bias(gemm: &Gemm, cuda: &Cuda, bias: Option<u64>) -> Result<()> {
    const OP: &str = "linear";
    let Some(bias) = bias else { return gemm.run_default(cuda, OP) };
    let (m, n) = (gemm.c.matrix.rows, gemm.c.matrix.cols);
    gemm.run_fused_or(cuda, OP, Epilogue::Bias, (bias, n), || {
        gemm.run_default(cuda, OP)?;
        epilogue::add_bias(cuda, gemm.dtype, [m, n], bias, gemm.c.address)
    })
}

pub(crate) fn backward(
    cuda: &Cuda,
    x: In<'_>,
    w: In<'_>,
    act: Activation,
    pre: Option<In<'_>>,
    dy: In<'_>,
    grads: LinearGrads<'_, Cuda>,
) -> Result<()> {
    const OP: &str = "linear_backward";
    let (m, k, n) = (x.layout.shape()[0], x.layout.shape()[1], w.layout.shape()[0]);
    let (dtype, size) = (x.dtype, x.dtype.size());
    let mut db = grads.db.as_ref().map(Address::address);
    if m == 0 || n == 0 || k == 0 {
        let outputs = [(&grads.dx, m * k), (&grads.dw, n * k)];
        let _guard = cuda.lock(OP)?;
        for (out, len) in outputs.into_iter().filter_map(|(out, len)| Some((out.as_ref()?, len))) {
            cuda.device.driver.zero(OP, out.address(), len * size)?;
        }
    }
    // g = act′(pre) · dy, and in the same pass its sums over rows.
    let gelu = pre.as_ref().map(|_| cuda.scratch(OP, m * n * size)).transpose()?;
    if let (Some(pre), Some(g)) = (&pre, &gelu) {
        let addresses = [pre.address(), dy.address(), g.address()];
        epilogue::gelu_backward(cuda, dtype, [m, n], act.dropout(), addresses, db.take())?;
    }
    let g = gelu.as_ref().map_or_else(|| dy.address(), |g| g.address());
    if m > 0 && n > 0 && k > 0 {
        if let Some(dx) = &grads.dx {
            let (a, b) = (Operand::new(g, m, n), weight(w.address(), w.layout));
            Gemm { dtype, result: dtype, a, b, c: Operand::new(dx.address(), m, k), batch: 1 }
                .run_default(cuda, OP)?;
        }
        if let Some(dw) = &grads.dw {
            weight_gradient(
                cuda,
                dtype,
                Operand::new(g, m, n),
                Operand::new(x.address(), m, k),
                dw,
                db.take(),
            )?;
        }
    }
    match db {
        Some(db) => epilogue::column_sum(cuda, dtype, [m, n], g, db),
        None => Ok(()),
    }
}

/// dw ← gᵀ x, in the memory order of the weight, and db ← Σ_M g if requested.
fn weight_gradient(
    cuda: &Cuda,
    dtype: DType,
    g: Operand,
    x: Operand,
    dw: &Out<'_>,
    db: Option<u64>,
) -> Result<()> {
    const OP: &str = "linear_backward";
    let (n, k) = (g.matrix.cols, x.matrix.cols);
    let (a, b, rows, cols, sums) = if dw.layout.is_contiguous() {
        (g.t(), x, n, k, Epilogue::RowSumsA)
    } else {
        // Column-major: dwᵀ ← xᵀ g.
        (x.t(), g, k, n, Epilogue::ColumnSumsB)
    };
    let gemm = Gemm { dtype, result: dtype, a, b, c: Operand::new(dw.address(), rows, cols), batch: 1 };
    let Some(db) = db else { return gemm.run_default(cuda, OP) };
    gemm.run_fused_or(cuda, OP, sums, (db, n), || {
        gemm.run_default(cuda, OP)?;
        epilogue::column_sum(cuda, dtype, [g.matrix.rows, n], g.address, db)
    })
}
