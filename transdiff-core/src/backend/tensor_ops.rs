//! Elementwise arithmetic, sums and products.

use super::storage::{Storage, View, ViewMut};
use crate::Result;

/// Elementwise functions of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// x · sigmoid(x).
    Silu,
    /// x².
    Square,
    /// 1/√x.
    Rsqrt,
}

/// Elementwise functions of two arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
}

/// Arithmetic on tensors of one float type. Inputs are broadcast to the shape of the output.
pub trait TensorOps: Storage {
    /// out ← op(x). Any strides.
    fn unary(&self, op: UnaryOp, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;

    /// dx ← op′(x) · dy. Any strides.
    fn unary_backward(
        &self,
        op: UnaryOp,
        x: View<'_, Self>,
        dy: View<'_, Self>,
        dx: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// out ← op(a, b). Any strides.
    fn binary(
        &self,
        op: BinaryOp,
        a: View<'_, Self>,
        b: View<'_, Self>,
        out: ViewMut<'_, Self>,
    ) -> Result<()>;

    /// out ← mul · x + add. Any strides.
    fn affine(&self, x: View<'_, Self>, mul: f64, add: f64, out: ViewMut<'_, Self>) -> Result<()>;

    /// out ← Σ x over all axes where `out` has size 1 and `x` does not. Equal rank, `x` of any strides, `out`
    /// contiguous. An empty sum is 0.
    fn sum(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;

    /// out ← a · b for matrices in the last two axes: a [.., M, K], b [.., K, N], out [.., M, N], with equal
    /// leading axes. Inputs of any strides, `out` contiguous. A product over K = 0 is 0.
    fn matmul(&self, a: View<'_, Self>, b: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;
}
