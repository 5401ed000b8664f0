//! Elementwise arithmetic, sums and matrix products.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record};
use crate::backend::{BinaryOp, UnaryOp};
use crate::{Backend, Result, Tensor};

type Grads<B> = Result<Vec<Option<Tensor<B>>>>;

struct Unary<B: Backend> {
    op: UnaryOp,
    x: Tensor<B>,
}

impl<B: Backend> Vjp<B> for Unary<B> {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(self.x.unary_backward(self.op, &dy)?)])
    }
}

/// Saves the operands of a product; a sum needs only the shapes.
struct Binary<B: Backend> {
    op: BinaryOp,
    shapes: [Vec<usize>; 2],
    operands: Option<[Tensor<B>; 2]>,
}

impl<B: Backend> Vjp<B> for Binary<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Grads<B> {
        let side = |i: usize| -> Result<Option<Tensor<B>>> {
            if !inputs.is_wanted(i) {
                return Ok(None);
            }
            let full = match (&self.operands, self.op) {
                (Some(operands), _) => dy.mul(&operands[1 - i])?,
                (None, BinaryOp::Sub) if i == 1 => dy.affine(-1.0, 0.0)?,
                (None, _) => dy.clone(),
            };
            Ok(Some(full.sum_to(&self.shapes[i])?))
        };
        Ok(vec![side(0)?, side(1)?])
    }
}

struct Affine {
    mul: f64,
}

impl<B: Backend> Vjp<B> for Affine {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.affine(self.mul, 0.0)?)])
    }
}

struct Sum {
    shape: Vec<usize>,
}

impl<B: Backend> Vjp<B> for Sum {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.broadcast_to(&self.shape)?)])
    }
}

struct MatMul<B: Backend> {
    a: Tensor<B>,
    b: Tensor<B>,
}

impl<B: Backend> Vjp<B> for MatMul<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Grads<B> {
        let da = || dy.matmul(&self.b.transpose()?)?.sum_to(self.a.shape());
        let db = || self.a.transpose()?.matmul(&dy)?.sum_to(self.b.shape());
        Ok(vec![inputs.is_wanted(0).then(da).transpose()?, inputs.is_wanted(1).then(db).transpose()?])
    }
}

impl<B: Backend> Var<B> {
    /// Applies `op` to every element.
    pub fn unary(&self, op: UnaryOp) -> Result<Self> {
        let y = self.value().unary(op)?;
        record(y, &[self], || Unary { op, x: self.value().clone() })
    }

    fn binary(&self, op: BinaryOp, other: &Self) -> Result<Self> {
        let y = self.value().binary(op, other.value())?;
        record(y, &[self, other], || Binary {
            op,
            shapes: [self.shape().to_vec(), other.shape().to_vec()],
            operands: (op == BinaryOp::Mul).then(|| [self.value().clone(), other.value().clone()]),
        })
    }

    /// self + other, broadcast.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Add, other)
    }

    /// self − other, broadcast.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Sub, other)
    }

    /// self · other, broadcast.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        self.binary(BinaryOp::Mul, other)
    }

    /// mul · self + add.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        record(self.value().affine(mul, add)?, &[self], || Affine { mul })
    }

    /// Sum over `axes`, which stay with size 1.
    pub fn sum(&self, axes: &[usize]) -> Result<Self> {
        record(self.value().sum(axes)?, &[self], || Sum { shape: self.shape().to_vec() })
    }

    /// Mean of all elements, of shape [].
    pub fn mean(&self) -> Result<Self> {
        let axes: Vec<usize> = (0..self.shape().len()).collect();
        self.sum(&axes)?.affine(1.0 / self.value().numel() as f64, 0.0)?.reshape(&[])
    }

    /// Matrix product over the last two axes.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        let y = self.value().matmul(other.value())?;
        record(y, &[self, other], || MatMul { a: self.value().clone(), b: other.value().clone() })
    }
}
