//! Elementwise arithmetic, sums and matrix products.

use super::{In, Out, Reference, gather, positions, scatter, scatter_contiguous};
use crate::backend::{BinaryOp, TensorOps, UnaryOp};
use crate::{Layout, Result};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn apply(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Silu => x * sigmoid(x),
        UnaryOp::Square => x * x,
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
    }
}

fn derivative(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Silu => sigmoid(x) * (1.0 + x * sigmoid(-x)),
        UnaryOp::Square => 2.0 * x,
        UnaryOp::Rsqrt => -0.5 / (x * x.sqrt()),
    }
}

impl TensorOps for Reference {
    fn unary(&self, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
        assert_eq!(x.layout.shape(), out.layout.shape());
        scatter(out, gather(x).into_iter().map(|x| apply(op, x)));
        Ok(())
    }

    fn unary_backward(&self, op: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
        assert_eq!(x.layout.shape(), dx.layout.shape());
        assert_eq!(dy.layout.shape(), dx.layout.shape());
        scatter(dx, gather(x).into_iter().zip(gather(dy)).map(|(x, dy)| derivative(op, x) * dy));
        Ok(())
    }

    fn binary(&self, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        assert_eq!(a.layout.shape(), out.layout.shape());
        assert_eq!(b.layout.shape(), out.layout.shape());
        let pairs = gather(a).into_iter().zip(gather(b));
        scatter(
            out,
            pairs.map(|(a, b)| match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
            }),
        );
        Ok(())
    }

    fn affine(&self, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
        assert_eq!(x.layout.shape(), out.layout.shape());
        scatter(out, gather(x).into_iter().map(|x| mul * x + add));
        Ok(())
    }

    fn sum(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        let shape = out.layout.shape();
        let mut sums = vec![0.0; out.layout.numel()];
        let places = Layout::contiguous(shape).broadcast_to(x.layout.shape())?;
        for (x, place) in gather(x).into_iter().zip(positions(&places)) {
            sums[place] += x;
        }
        scatter_contiguous(out, shape, sums);
        Ok(())
    }

    fn matmul(&self, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        let shape = out.layout.shape();
        let (lead, tail) = shape.split_at(shape.len() - 2);
        let (m, n, k) = (tail[0], tail[1], a.layout.shape()[shape.len() - 1]);
        assert_eq!(a.layout.shape(), [lead, &[m, k]].concat());
        assert_eq!(b.layout.shape(), [lead, &[k, n]].concat());
        let (a, b) = (gather(a), gather(b));
        let mut y = vec![0.0; out.layout.numel()];
        for (i, y) in y.iter_mut().enumerate() {
            let (matrix, row, col) = (i / (m * n), i / n % m, i % n);
            *y = (0..k).map(|l| a[(matrix * m + row) * k + l] * b[(matrix * k + l) * n + col]).sum();
        }
        scatter_contiguous(out, shape, y);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::backend::UnaryOp;

    #[test]
    fn unary_values_and_derivatives() {
        let x = tensor(&[2], &[1.0, 4.0]);
        let two = tensor(&[2], &[2.0, 2.0]);
        assert_close(&x.unary(UnaryOp::Silu).unwrap(), &[0.731_058_578_630_004_9, 3.928_055_160_151_634]);
        assert_close(&x.unary(UnaryOp::Square).unwrap(), &[1.0, 16.0]);
        assert_close(&x.unary(UnaryOp::Rsqrt).unwrap(), &[1.0, 0.5]);
        assert_close(&x.unary_backward(UnaryOp::Square, &two).unwrap(), &[4.0, 16.0]);
        assert_close(&x.unary_backward(UnaryOp::Rsqrt, &two).unwrap(), &[-1.0, -0.125]);
        // σ(1)(1 + 1 − σ(1)) = 0.731…·1.268…
        let slope = x.unary_backward(UnaryOp::Silu, &tensor(&[2], &[1.0, 0.0])).unwrap();
        assert_close(&slope, &[0.927_670_511_871_486_7, 0.0]);
    }

    #[test]
    fn binary_operations_broadcast() {
        let (row, col) = (tensor(&[3], &[1.0, 2.0, 3.0]), tensor(&[2, 1], &[10.0, 20.0]));
        assert_close(&col.sub(&row).unwrap(), &[9.0, 8.0, 7.0, 19.0, 18.0, 17.0]);
        assert_close(&col.mul(&row).unwrap(), &[10.0, 20.0, 30.0, 20.0, 40.0, 60.0]);
        assert_close(&row.affine(2.0, -1.0).unwrap(), &[1.0, 3.0, 5.0]);
    }

    #[test]
    fn sums_match_hand_computed_values() {
        let x = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_close(&x.sum(&[0]).unwrap(), &[5.0, 7.0, 9.0]);
        assert_close(&x.sum(&[1]).unwrap(), &[6.0, 15.0]);
        assert_close(&x.sum_to(&[]).unwrap(), &[21.0]);
        assert_close(&x.narrow(0, 0, 0).unwrap().sum(&[0]).unwrap(), &[0.0; 3]);
        assert_close(&x.mean().unwrap(), &[3.5]);
    }

    #[test]
    fn products_match_hand_computed_values() {
        let a = tensor(&[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
        let b = tensor(&[1, 2], &[5.0, 6.0]);
        assert_close(&a.matmul(&b).unwrap(), &[5.0, 6.0, 10.0, 12.0, 15.0, 18.0, 20.0, 24.0]);
        let x = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_close(&x.matmul(&x.transpose().unwrap()).unwrap(), &[5.0, 11.0, 11.0, 25.0]);
    }
}
