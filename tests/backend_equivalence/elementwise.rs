//! Elementwise arithmetic, sums and matrix products.

use transdiff_core::backend::{BinaryOp, UnaryOp, View, ViewMut};
use transdiff_core::{Backend, Layout, Result};

use crate::guarded::SENTINEL;
use crate::harness::{Case, Place, Suite, check, positions};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("unary", 80, unary);
    suite.cases("binary", 80, binary);
    suite.cases("sums", 80, sums);
    suite.cases("products", 60, products);
    suite.cases("strided outputs", 120, strided_outputs);
}

fn unary<B: Backend>(case: &mut Case<'_, B>) {
    let shape = case.shape();
    let op = case.pick(&[UnaryOp::Silu, UnaryOp::Square, UnaryOp::Rsqrt]);
    // Also far from 0, where exponentials overflow.
    let size = case.pick(&[1.0, 1.0, 60.0]);
    let x = case.input(&shape, |z| if op == UnaryOp::Rsqrt { z.abs() + 0.1 } else { size * z });
    let dy = case.normal(&shape);
    check!(case, "unary", [x] => x.unary(op));
    check!(case, "unary_backward", [x, dy] => x.unary_backward(op, dy));
    let (mul, add) = case.pick(&[(1.0, 0.5), (-0.3, 0.0), (2.5, 1.25)]);
    check!(case, "affine", [x] => x.affine(mul, add));
}

fn binary<B: Backend>(case: &mut Case<'_, B>) {
    let shape = case.shape();
    // Either operand may lack leading axes and have axes of size 1.
    let mut side = || {
        let missing = if case.one_in(2) { case.below(shape.len() + 1) } else { 0 };
        let shape: Vec<_> = shape[missing..].iter().map(|&n| if case.one_in(4) { 1 } else { n }).collect();
        case.normal(&shape)
    };
    let (a, b) = (side(), side());
    let op = case.pick(&[BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul]);
    check!(case, "binary", [a, b] => a.binary(op, b));
}

/// Sums of numbers around 1, which do not cancel, so that the error has a scale.
fn sums<B: Backend>(case: &mut Case<'_, B>) {
    let shape = case.shape();
    let x = case.input(&shape, |z| z + 1.0);
    let axes: Vec<usize> = (0..shape.len()).filter(|_| case.one_in(2)).collect();
    case.note(&axes);
    check!(case, "sum", [x] => x.sum(&axes));
    let mut to = shape.clone();
    axes.iter().for_each(|&a| to[a] = 1);
    let leading = to.iter().take_while(|&&n| n == 1).count();
    let to = to[case.below(leading + 1)..].to_vec();
    check!(case, "sum", [x] => x.sum_to(&to));
    if x.ours.numel() > 0 {
        check!(case, "sum", [x] => x.mean());
    }
}

fn products<B: Backend>(case: &mut Case<'_, B>) {
    let sizes = [0, 1, 2, 3, 5, 8, 16, 17, 33, 64, 65, 70];
    let [m, n, k] = [(); 3].map(|()| case.pick(&sizes));
    let k = if case.one_in(8) { 600 } else { k };
    let lead = case.pick(&[&[][..], &[1], &[3], &[2, 2], &[0]]);
    let a = case.input(&[lead, &[m, k]].concat(), |z| z + 1.0);
    let lead = if case.one_in(2) { &[] } else { lead };
    let b = case.input(&[lead, &[k, n]].concat(), |z| z + 1.0);
    check!(case, "matmul", [a, b] => a.matmul(b));
}

/// Strided outputs: tensors only pass contiguous ones, but the trait allows any.
fn strided_outputs<B: Backend>(case: &mut Case<'_, B>) {
    fn apply<B: Backend>(
        which: usize,
        b: &B,
        x: View<'_, B>,
        y: View<'_, B>,
        out: ViewMut<'_, B>,
    ) -> Result<()> {
        match which {
            0 => b.copy(x, out),
            1 => b.cast(x, out),
            2 => b.unary(UnaryOp::Silu, x, out),
            3 => b.unary_backward(UnaryOp::Silu, x, y, out),
            4 => b.affine(x, -1.5, 0.25, out),
            _ => b.binary(BinaryOp::Sub, x, y, out),
        }
    }
    /// The elements of the output, and whether the rest of the buffer is unchanged.
    fn run<B: Backend>(
        which: usize,
        b: &B,
        x: View<'_, B>,
        y: View<'_, B>,
        place: &Place,
    ) -> Result<(Vec<f64>, bool)> {
        let (layout, all, dtype) = (place.layout(), Layout::contiguous(&[place.buffer_len()]), x.dtype);
        let mut buffer = b.alloc(dtype, all.numel())?;
        b.fill(SENTINEL, ViewMut { buffer: &mut buffer, layout: &all, dtype })?;
        apply(which, b, x, y, ViewMut { buffer: &mut buffer, layout: &layout, dtype })?;
        let mut values = b.to_host(View { buffer: &buffer, layout: &all, dtype })?.to_f64();
        let written =
            positions(&layout).into_iter().map(|p| std::mem::replace(&mut values[p], SENTINEL)).collect();
        Ok((written, values.iter().all(|&v| v == SENTINEL)))
    }
    let (shape, which) = (case.shape(), case.pick(&[0, 1, 2, 3, 4, 5]));
    let (x, y, place) = (case.normal(&shape), case.normal(&shape), case.place(&shape));
    let (got, intact) = run(which, &case.backend, x.ours.view(), y.ours.view(), &place).unwrap();
    let reference = x.reference.backend();
    let (want, _) = run(which, reference, x.reference.view(), y.reference.view(), &place).unwrap();
    assert!(intact, "strided output: the operation wrote between its elements");
    case.check_error("strided outputs", &got, &want);
}
