//! Group normalisation and convolution of images.

use transdiff_core::Backend;
use transdiff_core::backend::Resample;
use transdiff_core::tensor::{Conv, ScaleShift};

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("group norms", 60, group_norms);
    suite.cases("group norms far from zero", 10, far_from_zero);
    suite.cases("convolutions", 120, convolutions);
    suite.cases("convolutions in bands", 8, bands);
    suite.cases("convolutions in tiles", 12, tiles);
    suite.cases("convolutions in many tiles", 2, many_tiles);
}

fn group_norms<B: Backend>(case: &mut Case<'_, B>) {
    let (groups, each) = (case.pick(&[1, 2, 4, 32]), case.pick(&[0, 1, 2, 3, 5]));
    // Around the number of pixels of a task, and of a run.
    let [b, h, w] = [case.pick(&[0, 1, 2, 3]), case.pick(&[1, 2, 9, 130]), case.pick(&[1, 3, 16, 33])];
    let x = case.distinct(&[b, h, w, groups * each], |z| 2.0 * z + 1.0);
    let (weight, bias) = (case.normal(&[groups * each]), case.normal(&[groups * each]));
    // A single element has no variance: its scale is 1/√eps.
    check!(case, "group_norm", [x, weight, bias] => x.group_norm(weight, bias, groups, 1e-2));
}

/// Inputs for which mean(x²) − mean(x)² has few digits left; the bound is the same.
fn far_from_zero<B: Backend>(case: &mut Case<'_, B>) {
    let (h, w) = (case.pick(&[8, 70]), case.pick(&[8, 40]));
    let x = case.distinct(&[2, h, w, 8], |z| z + 300.0);
    let (weight, bias) = (case.given(&[8], vec![1.0; 8]), case.given(&[8], vec![0.0; 8]));
    check!(case, "group_norm", [x, weight, bias] => x.group_norm(weight, bias, 2, 1e-6));
}

fn setting<B: Backend>(case: &mut Case<'_, B>) -> ([usize; 5], Resample) {
    let resample = case.pick(&[Resample::Same, Resample::Double, Resample::Halve]);
    let even = if resample == Resample::Halve { 2 } else { 1 };
    let [h, w] = [(); 2].map(|()| even * case.pick(&[0, 1, 2, 3, 8, 17]));
    let [b, c, o] =
        [case.pick(&[0, 1, 1, 2, 3]), case.pick(&[0, 1, 3, 8, 33]), case.pick(&[0, 1, 3, 16, 70])];
    ([b, h, w, c, o], resample)
}

fn convolutions<B: Backend>(case: &mut Case<'_, B>) {
    let (sizes, resample) = setting(case);
    convolution(case, sizes, resample);
}

/// Images that backends partition into bands.
fn bands<B: Backend>(case: &mut Case<'_, B>) {
    let resample = case.pick(&[Resample::Same, Resample::Double, Resample::Halve]);
    let [h, w] = [case.pick(&[20, 66]), case.pick(&[32, 90])];
    let c = case.pick(&[64, 200]);
    convolution(case, [1, h, w, c, 5], resample);
}

/// Channels that are a multiple of vectors, and many outputs.
fn tiles<B: Backend>(case: &mut Case<'_, B>) {
    let resample = case.pick(&[Resample::Same, Resample::Double, Resample::Halve]);
    let [h, w] = [case.pick(&[10, 20]), case.pick(&[14, 34])];
    let (c, o) = (case.pick(&[8, 72]), case.pick(&[64, 136]));
    convolution(case, [2, h, w, c, o], resample);
}

/// Few channels, and more tiles than a GPU has multiprocessors, so that the largest tiles are chosen.
fn many_tiles<B: Backend>(case: &mut Case<'_, B>) {
    let kernel = if case.number == 0 { 1 } else { 3 };
    convolve(case, [2, 80, 80, 8, 130], kernel, Resample::Same);
}

fn convolution<B: Backend>(case: &mut Case<'_, B>, sizes: [usize; 5], resample: Resample) {
    let kernel = case.pick(&[1, 3]);
    convolve(case, sizes, kernel, resample);
}

fn convolve<B: Backend>(case: &mut Case<'_, B>, [b, h, w, c, o]: [usize; 5], k: usize, resample: Resample) {
    let (x, weight, bias) = (case.normal(&[b, h, w, c]), case.normal(&[o, c, k, k]), case.normal(&[o]));
    let scale_shift = case.one_in(2).then(|| {
        let drawn = case.normal(&[b, 2, c]);
        case.saved(&drawn.reference)
    });
    let silu = case.pick(&[false, true]);
    let side = |n: usize| match resample {
        Resample::Same => n,
        Resample::Double => 2 * n,
        Resample::Halve => n / 2,
    };
    let residual = case.one_in(2).then(|| case.normal(&[b, side(h), side(w), o]));
    check!(case, "conv2d", [x, weight, bias, scale_shift, residual] => {
        let scale_shift = scale_shift.map(|s| ScaleShift { coefficients: s.clone(), silu });
        x.conv2d(weight, bias, &Conv { resample, scale_shift: scale_shift.as_ref(), residual })
    });
}
