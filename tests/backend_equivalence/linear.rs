//! Linear layers.

use transdiff_core::Backend;
use transdiff_core::backend::Activation;

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("linear", 80, linear);
}

fn linear<B: Backend>(case: &mut Case<'_, B>) {
    // Sizes on both sides of the tiles of matrix kernels.
    let m: usize = case.pick(&[0, 1, 2, 5, 31, 64, 65, 130]);
    let n = case.pick(&[0, 1, 3, 8, 33, 64, 100]);
    let k = case.pick(&[0, 1, 2, 7, 16, 129, 256, 257, 1000]);
    let lead = if m.is_multiple_of(5) && case.one_in(2) { vec![5, m / 5] } else { vec![m] };
    let dropout = Activation::GeluDropout(case.dropout(lead[0]));
    let act = case.pick(&[Activation::None, Activation::Gelu, dropout]);
    let scale = 1.0 / (k.max(1) as f64).sqrt();
    let x = case.input(&[&lead[..], &[k]].concat(), |z| z + 1.0);
    let w = case.input(&[n, k], |z| scale * (z + 1.0));
    let b = if case.one_in(4) { None } else { Some(case.normal(&[n])) };
    check!(case, "linear", [x, w, b] => x.linear(w, b, act, true));
    check!(case, "linear", [x, w, b] => x.linear(w, b, act, false));
    if let Some(dropout) = act.dropout().filter(|_| k > 0) {
        let y = x.ours.linear(&w.ours, b.as_ref().map(|b| &b.ours), act, false).unwrap().0.to_f64().unwrap();
        let dropped = |i| dropout.factor(i, m * n) == 0.0;
        assert!(y.iter().enumerate().all(|(i, &y)| y == 0.0 || !dropped(i)));
    }

    // Pre-activations around 0, and far from it in both directions (in one direction alone all gradients would vanish).
    let out = [&lead[..], &[n]].concat();
    let size = case.pick(&[1.0, 30.0]);
    let pre = (act != Activation::None).then(|| case.distinct(&out, |z| size * z));
    let dy = case.input(&out, |z| z + 1.0);
    let wanted = case.pick(&[[true; 3], [true, false, false], [false, true, true], [false, false, true]]);
    check!(case, "linear_backward", [x, w, pre, dy] => x.linear_backward(w, act, pre, dy, wanted));
}
