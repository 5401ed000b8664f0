//! Pooling.

use super::conv::source;
use super::{In, Out, gather_contiguous, scatter_contiguous};
use crate::backend::{Pooling, Windows};

pub(super) fn forward(x: In<'_>, pooling: Pooling, windows: Windows, y: Out<'_>) {
    let &[b, h, w, c] = x.layout.shape() else { panic!("x is [B, H, W, C]") };
    let count = |axis, side| windows.count(axis, side).expect("core checks that a window fits");
    let shape @ [_, oh, ow, _] = [b, count(0, h), count(1, w), c];
    let x = gather_contiguous(x, &[b, h, w, c]);
    let value = |i: usize| {
        let (channel, column, row, image) = (i % c, i / c % ow, i / (c * ow) % oh, i / (c * ow * oh));
        let rows = (0..windows.kernel[0]).filter_map(|tap| source(&windows, 0, h, row, tap));
        let seen = rows.flat_map(|row| {
            let columns = (0..windows.kernel[1]).filter_map(|tap| source(&windows, 1, w, column, tap));
            columns.map(|column| x[((image * h + row) * w + column) * c + channel]).collect::<Vec<_>>()
        });
        let seen: Vec<f64> = seen.collect();
        match pooling {
            Pooling::Max => {
                seen.into_iter().fold(f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
            }
            Pooling::Average => seen.iter().sum::<f64>() / seen.len() as f64,
        }
    };
    scatter_contiguous(y, &shape, (0..b * oh * ow * c).map(value));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::backend::{Pooling, Windows};

    #[test]
    fn windows_match_hand_computed_values() {
        let x = tensor(&[1, 2, 3, 2], &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0, 5.0, -5.0, 6.0, -6.0]);
        let windows = Windows { kernel: [2, 3], stride: [1, 2], padding: [[1, 0], [1, 1]] };
        // Windows begin at rows -1 and 0, and at columns -1 and 1.
        let max = x.pool2d(Pooling::Max, &windows).unwrap();
        assert_close(&max, &[2.0, -1.0, 3.0, -2.0, 5.0, -1.0, 6.0, -2.0]);
        let mean = x.pool2d(Pooling::Average, &windows).unwrap();
        assert_close(&mean, &[1.5, -1.5, 2.5, -2.5, 3.0, -3.0, 4.0, -4.0]);
    }
}
