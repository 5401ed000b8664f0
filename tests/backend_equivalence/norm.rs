//! LayerNorm with modulation, and gated residual connections.

use transdiff_core::tensor::Modulation;
use transdiff_core::{Backend, Tensor};

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("norms", 80, |case| {
        let dims = dims(case);
        norms(case, dims);
    });
    // Rows that exceed the registers of a warp, and of a thread block.
    suite.cases("norms of long rows", 24, |case| {
        let dims = [2, 9, case.pick(&[768, 1023, 1104, 1280, 1281, 4104, 8200, 8201])];
        norms(case, dims);
    });
    suite.cases("norms of rows far from zero", 10, far_from_zero);
    suite.cases("gated residuals", 60, gated_residuals);
    if suite.dtype != suite.dtype.accumulator() {
        suite.cases("norms of a stream", 40, norms_of_stream);
        suite.cases("residuals to a stream", 40, residuals_to_stream);
    }
}

fn modulation<B: Backend>(scale: Option<&Tensor<B>>, shift: Option<&Tensor<B>>) -> Option<Modulation<B>> {
    scale.zip(shift).map(|(s, t)| Modulation { scale: s.clone(), shift: t.clone() })
}

/// G, R, D.
fn dims<B: Backend>(case: &mut Case<'_, B>) -> [usize; 3] {
    [case.pick(&[0, 1, 2, 3]), case.pick(&[0, 1, 2, 5, 70]), case.pick(&[0, 1, 2, 3, 8, 17, 64, 100, 257])]
}

fn norms<B: Backend>(case: &mut Case<'_, B>, [g, r, d]: [usize; 3]) {
    // Two elements always normalise to ±1: the true gradient is of the order of eps, and for a small eps the error of any
    // float type exceeds it.
    let eps = if d == 2 { 0.5 } else { 1e-6 };
    let mut pair = |shape: &[usize]| {
        if case.one_in(3) { [None, None] } else { [(); 2].map(|()| Some(case.normal(shape))) }
    };
    let images = if g > 1 { g } else { 1 };
    let [w, b] = pair(&[d]);
    let [s, t] = pair(&[images, 1, d]);
    let (x, dy) = (case.distinct(&[g, r, d], |z| 2.0 * z + 1.0), case.distinct(&[g, r, d], |z| z));
    // The mean of an empty row is undefined.
    let save = d > 0;
    check!(case, "norm_modulate", [x, w, b, s, t] =>
        x.norm_modulate(w.zip(b), modulation(s, t).as_ref(), eps, save));

    let stats = x.reference.norm_modulate(None, None, eps, true).unwrap().stats.unwrap();
    // Without a modulation all rows are one group.
    let groups = if s.is_some() { [g, r, 2] } else { [1, g * r, 2] };
    let stats = case.saved(&stats.reshape(&groups).unwrap());
    let wanted = case.pick(&[[true; 3], [true, false, false], [false, true, true]]);
    let residual = if case.one_in(2) { Some(case.normal(&[g, r, d])) } else { None };
    check!(case, "norm_modulate_backward", [x, w, b, s, t, stats, dy, residual] =>
        x.norm_modulate_backward(w.zip(b), modulation(s, t).as_ref(), eps, stats, (dy, residual), wanted));
}

/// Inputs for which mean(x²) − mean(x)² has no digit left.
fn far_from_zero<B: Backend>(case: &mut Case<'_, B>) {
    let d = case.pick(&[8, 65, 256]);
    let x = case.distinct(&[3, d], |z| z + 300.0);
    check!(case, "norm_modulate, mean 300", [x] => x.norm_modulate(None, None, 1e-6, true));
}

fn gated_residuals<B: Backend>(case: &mut Case<'_, B>) {
    let dims @ [g, _, d] = dims(case);
    let (x, u, dy) = (case.normal(&dims), case.normal(&dims), case.input(&dims, |z| z + 1.0));
    let images = if g > 1 && case.one_in(2) { g } else { 1 };
    let gate = if case.one_in(3) { None } else { Some(case.normal(&[images, 1, d])) };
    let dropout = if case.one_in(2) { Some(case.dropout(g)) } else { None };
    check!(case, "gated_residual", [x, u, gate] => x.gated_residual(u, gate, dropout));
    let wanted = case.pick(&[true, true, false]);
    check!(case, "gated_residual_backward", [u, gate, dy] =>
        u.gated_residual_backward(gate, dropout, dy, wanted));
}

/// The input, and its gradient, in the accumulator's type.
fn norms_of_stream<B: Backend>(case: &mut Case<'_, B>) {
    let (g, r) = (case.pick(&[1, 2, 3]), case.pick(&[1, 2, 5, 70]));
    let d = case.pick(&[3, 8, 17, 64, 257, 768, 1104, 1288, 4104, 8200]);
    // The output is of the type of either.
    let [affine, modulated] = case.pick(&[[true, true], [true, false], [false, true]]);
    let images = case.pick(&[1, g]);
    let mut pair = |present: bool, shape: &[usize]| [(); 2].map(|()| present.then(|| case.normal(shape)));
    let [w, b] = pair(affine, &[d]);
    let [s, t] = pair(modulated, &[images, 1, d]);
    let (x, dy) = (case.stream(&[g, r, d], |z| 2.0 * z + 1.0), case.distinct(&[g, r, d], |z| z));
    check!(case, "norm_modulate, stream", [x, w, b, s, t] =>
        x.norm_modulate(w.zip(b), modulation(s, t).as_ref(), 1e-6, true));
    let stats = x.reference.norm_modulate(None, None, 1e-6, true).unwrap().stats.unwrap();
    let groups = if modulated { [g, r, 2] } else { [1, g * r, 2] };
    let stats = case.saved(&stats.reshape(&groups).unwrap());
    let wanted = case.pick(&[[true; 3], [true, false, false], [false, true, true]]);
    let residual = if case.one_in(2) { Some(case.stream(&[g, r, d], |z| z)) } else { None };
    check!(case, "norm_modulate_backward, stream", [x, w, b, s, t, stats, dy, residual] => {
        let modulation = modulation(s, t);
        x.norm_modulate_backward(w.zip(b), modulation.as_ref(), 1e-6, stats, (dy, residual), wanted)
    });
}

/// The sum, and its gradient, in the accumulator's type.
fn residuals_to_stream<B: Backend>(case: &mut Case<'_, B>) {
    let dims @ [g, _, d] = dims(case);
    let (x, u, dy) = (case.stream(&dims, |z| z), case.normal(&dims), case.stream(&dims, |z| z + 1.0));
    let gate = if case.one_in(3) { None } else { Some(case.normal(&[g, 1, d])) };
    let dropout = if case.one_in(2) { Some(case.dropout(g)) } else { None };
    check!(case, "gated_residual, stream", [x, u, gate] => x.gated_residual(u, gate, dropout));
    check!(case, "gated_residual_backward, stream", [u, gate, dy] =>
        u.gated_residual_backward(gate, dropout, dy, true));
}
