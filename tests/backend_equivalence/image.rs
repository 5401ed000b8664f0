//! Group normalisation, convolution and pooling of images.

use transdiff_core::Backend;
use transdiff_core::backend::{Pooling, Windows};
use transdiff_core::tensor::{Conv, ScaleShift};

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("group norms", 60, group_norms);
    suite.cases("group norms far from zero", 10, far_from_zero);
    suite.cases("convolutions", 160, convolutions);
    suite.cases("convolutions in bands", 8, bands);
    suite.cases("convolutions in tiles", 12, tiles);
    suite.cases("convolutions in many tiles", 2, many_tiles);
    suite.cases("poolings", 40, poolings);
    suite.cases("poolings of NaN", 2, nan_poolings);
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

/// Geometry of a convolution, and the sizes of its tensors: B, H, W, C, O.
#[derive(Clone, Copy)]
struct Geometry {
    sizes: [usize; 5],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [[usize; 2]; 2],
    doubled: bool,
}

impl Geometry {
    /// The geometries of the autoencoder: sides that stay, are doubled or are halved.
    fn of_the_autoencoder<B: Backend>(case: &mut Case<'_, B>, sizes: [usize; 5]) -> Self {
        let (side, doubled, halved) = case.pick(&[
            (1, false, false),
            (3, false, false),
            (1, true, false),
            (3, true, false),
            (1, false, true),
            (3, false, true),
        ]);
        let before = if halved { 0 } else { side / 2 };
        let (stride, padding) = (if halved { 2 } else { 1 }, [[before, side / 2]; 2]);
        Self { sizes, kernel: [side; 2], stride: [stride; 2], padding, doubled }
    }

    /// Any geometry that has a window.
    fn any<B: Backend>(case: &mut Case<'_, B>, sizes: [usize; 5]) -> Self {
        let kernel: [usize; 2] = case.pick(&[[1, 1], [1, 2], [3, 1], [1, 7], [7, 1], [3, 3], [5, 5], [2, 4]]);
        let stride = case.pick(&[[1, 1], [1, 1], [2, 2], [1, 2], [3, 1], [4, 5], [1 << 40, 2]]);
        let doubled = case.one_in(4);
        let scale = if doubled { 2 } else { 1 };
        let padding = [0, 1].map(|axis| {
            let before = case.pick(&[0, kernel[axis] / 2, kernel[axis] + 1]);
            // At least one window fits.
            let missing = kernel[axis].saturating_sub(scale * sizes[axis + 1] + before);
            [before, missing + case.pick(&[0, kernel[axis] / 2, 1])]
        });
        Self { sizes, kernel, stride, padding, doubled }
    }

    /// Sides of the result.
    fn sides(&self) -> [usize; 2] {
        let scale = if self.doubled { 2 } else { 1 };
        [0, 1].map(|axis| {
            let padded = scale * self.sizes[axis + 1] + self.padding[axis].iter().sum::<usize>();
            (padded - self.kernel[axis]) / self.stride[axis] + 1
        })
    }
}

fn sizes<B: Backend>(case: &mut Case<'_, B>) -> [usize; 5] {
    let [h, w] = [(); 2].map(|()| case.pick(&[2, 3, 4, 8, 17]));
    [case.pick(&[0, 1, 1, 2, 3]), h, w, case.pick(&[0, 1, 3, 8, 33]), case.pick(&[0, 1, 3, 16, 70])]
}

fn convolutions<B: Backend>(case: &mut Case<'_, B>) {
    let sizes = sizes(case);
    let geometry = match (case.number, case.one_in(2)) {
        // The last window ends with the first half of a doubled pixel.
        (0, _) => Geometry {
            sizes: [2, 1, 2, 3, 4],
            kernel: [1, 2],
            stride: [1, 2],
            padding: [[0, 0], [1, 0]],
            doubled: true,
        },
        (_, true) => Geometry::any(case, sizes),
        (_, false) => Geometry::of_the_autoencoder(case, sizes),
    };
    convolve(case, geometry);
}

/// Images that backends partition into bands.
fn bands<B: Backend>(case: &mut Case<'_, B>) {
    let [h, w] = [case.pick(&[20, 66]), case.pick(&[32, 90])];
    let sizes = [1, h, w, case.pick(&[64, 200]), 5];
    let geometry = match case.one_in(2) {
        true => Geometry::any(case, sizes),
        false => Geometry::of_the_autoencoder(case, sizes),
    };
    convolve(case, geometry);
}

/// Channels that are a multiple of vectors, and many outputs.
fn tiles<B: Backend>(case: &mut Case<'_, B>) {
    let [h, w] = [case.pick(&[10, 20]), case.pick(&[14, 34])];
    let sizes = [2, h, w, case.pick(&[8, 72]), case.pick(&[64, 136])];
    let geometry = match case.one_in(2) {
        true => Geometry::any(case, sizes),
        false => Geometry::of_the_autoencoder(case, sizes),
    };
    convolve(case, geometry);
}

/// Few channels, and more tiles than a GPU has multiprocessors, so that the largest tiles are chosen.
fn many_tiles<B: Backend>(case: &mut Case<'_, B>) {
    let side = if case.number == 0 { 1 } else { 3 };
    let padding = [[side / 2; 2]; 2];
    let sizes = [2, 80, 80, 8, 130];
    convolve(case, Geometry { sizes, kernel: [side; 2], stride: [1; 2], padding, doubled: false });
}

fn convolve<B: Backend>(case: &mut Case<'_, B>, geometry: Geometry) {
    let Geometry { sizes: [b, h, w, c, o], kernel: [kh, kw], stride, padding, doubled } = geometry;
    let (x, weight, bias) = (case.normal(&[b, h, w, c]), case.normal(&[o, c, kh, kw]), case.normal(&[o]));
    let scale_shift = case.one_in(2).then(|| {
        let drawn = case.normal(&[b, 2, c]);
        case.saved(&drawn.reference)
    });
    let (silu, relu) = (case.pick(&[false, true]), case.pick(&[false, true]));
    let [rows, columns] = geometry.sides();
    let residual = case.one_in(2).then(|| case.normal(&[b, rows, columns, o]));
    check!(case, "conv2d", [x, weight, bias, scale_shift, residual] => {
        let scale_shift = scale_shift.map(|s| ScaleShift { coefficients: s.clone(), silu });
        let scale_shift = scale_shift.as_ref();
        x.conv2d(weight, bias, &Conv { stride, padding, doubled, scale_shift, residual, relu })
    });
}

fn poolings<B: Backend>(case: &mut Case<'_, B>) {
    let [b, h, w, c] =
        [case.pick(&[0, 1, 2]), case.pick(&[3, 8, 17]), case.pick(&[3, 9]), case.pick(&[0, 1, 8, 33])];
    let kernel = case.pick(&[[3, 3], [2, 3], [1, 2], [3, 1]]);
    let padding = kernel.map(|kernel| [case.pick(&[0, kernel - 1]), case.pick(&[0, kernel / 2])]);
    let windows = Windows { kernel, stride: case.pick(&[[1, 1], [2, 2], [3, 1]]), padding };
    let pooling = case.pick(&[Pooling::Max, Pooling::Average]);
    let x = case.normal(&[b, h, w, c]);
    check!(case, "pool2d", [x] => x.pool2d(pooling, &windows));
}

/// NaN is not lost, in whatever order a window is read.
fn nan_poolings<B: Backend>(case: &mut Case<'_, B>) {
    let pooling = [Pooling::Max, Pooling::Average][case.number as usize];
    let mut values = vec![1.0; 5 * 8];
    values[2 * 8..3 * 8].fill(f64::NAN);
    let x = case.given(&[1, 1, 5, 8], values);
    let windows = Windows { kernel: [1, 3], stride: [1, 1], padding: [[0; 2]; 2] };
    let pooled = x.ours.pool2d(pooling, &windows).unwrap();
    assert!(pooled.to_f64().unwrap().iter().all(|value| value.is_nan()));
}
