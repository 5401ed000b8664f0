//! 2-D convolution.

use super::{In, Out, Reference, gather_contiguous, scatter_contiguous};
use crate::backend::{ConvArgs, Resample};

/// x after scale, shift and SiLU.
fn scaled(x: In<'_>, scale_shift: Option<(In<'_>, bool)>) -> Vec<f64> {
    let &[b, h, w, c] = x.layout.shape() else { panic!("x is [B, H, W, C]") };
    let mut x = gather_contiguous(x, &[b, h, w, c]);
    let Some((scale_shift, silu)) = scale_shift else { return x };
    let scale_shift = gather_contiguous(scale_shift, &[b, 2, c]);
    for (i, x) in x.iter_mut().enumerate() {
        let (image, channel) = (i / (h * w * c), i % c);
        *x = scale_shift[image * 2 * c + channel] * *x + scale_shift[(image * 2 + 1) * c + channel];
        if silu {
            *x /= 1.0 + (-*x).exp();
        }
    }
    x
}

/// Input position for output position `at` and row or column `tap` of the kernel, along a side of `n`; `None` in the
/// padding.
fn source(resample: Resample, n: usize, k: usize, at: usize, tap: usize) -> Option<usize> {
    match resample {
        Resample::Same => (at + tap).checked_sub(k / 2).filter(|&i| i < n),
        Resample::Double => (at + tap).checked_sub(k / 2).map(|i| i / 2).filter(|&i| i < n),
        Resample::Halve => Some(2 * at + tap).filter(|&i| i < n),
    }
}

pub(super) fn forward(args: ConvArgs<'_, Reference>, y: Out<'_>) {
    let &[b, h, w, c] = args.x.layout.shape() else { panic!("x is [B, H, W, C]") };
    let &[k, _, _, o] = args.w.layout.shape() else { panic!("w is [K, K, C, O]") };
    let side = |n: usize| match args.resample {
        Resample::Same => n,
        Resample::Double => 2 * n,
        Resample::Halve => n / 2,
    };
    let shape @ [_, oh, ow, _] = [b, side(h), side(w), o];
    let x = scaled(args.x, args.scale_shift);
    let (weight, bias) = (gather_contiguous(args.w, &[k, k, c, o]), gather_contiguous(args.b, &[o]));
    let residual = args.residual.map(|r| gather_contiguous(r, &shape));
    let value = |i: usize| {
        let (channel, column, row, image) = (i % o, i / o % ow, i / (o * ow) % oh, i / (o * ow * oh));
        let mut sum = bias[channel] + residual.as_ref().map_or(0.0, |r| r[i]);
        for tap in 0..k * k {
            let row = source(args.resample, h, k, row, tap / k);
            let Some((row, column)) = row.zip(source(args.resample, w, k, column, tap % k)) else { continue };
            let pixel = &x[((image * h + row) * w + column) * c..][..c];
            let weight = (0..c).map(|l| weight[(tap * c + l) * o + channel]);
            sum += pixel.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
        }
        sum
    };
    scatter_contiguous(y, &shape, (0..b * oh * ow * o).map(value));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::backend::Resample;
    use crate::tensor::{Conv, ScaleShift};

    #[test]
    fn taps_padding_and_resampling_match_hand_computed_values() {
        let x = tensor(&[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
        // Ten times the neighbour above, and the one on the right.
        let w = tensor(&[1, 1, 3, 3], &[0.0, 10.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let b = tensor(&[1], &[100.0]);
        let conv = |how: &Conv<'_, _>| x.conv2d(&w, &b, how).unwrap();
        assert_close(&conv(&Conv::default()), &[102.0, 100.0, 114.0, 120.0]);
        let halved = conv(&Conv { resample: Resample::Halve, ..Conv::default() });
        // The window of the only position begins at the first pixel: the pixel above its centre is 2.
        assert_close(&halved, &[120.0]);
        let doubled = conv(&Conv { resample: Resample::Double, ..Conv::default() });
        let rows = [[101.0, 102.0, 102.0, 100.0], [111.0, 112.0, 122.0, 120.0]];
        let below = [[113.0, 114.0, 124.0, 120.0], [133.0, 134.0, 144.0, 140.0]];
        assert_close(&doubled, &[rows, below].concat().concat());
    }

    #[test]
    fn scale_shift_and_residual_match_hand_computed_values() {
        let x = tensor(&[1, 1, 1, 2], &[1.0, 2.0]);
        let (w, b) = (tensor(&[1, 2, 1, 1], &[1.0, 1.0]), tensor(&[1], &[0.0]));
        let coefficients = tensor(&[1, 2, 2], &[3.0, 4.0, 5.0, 6.0]);
        let residual = tensor(&[1, 1, 1, 1], &[0.5]);
        let conv = |silu| {
            let scale_shift = ScaleShift { coefficients: coefficients.clone(), silu };
            let how = Conv { scale_shift: Some(&scale_shift), residual: Some(&residual), ..Conv::default() };
            x.conv2d(&w, &b, &how).unwrap()
        };
        assert_close(&conv(false), &[8.0 + 14.0 + 0.5]);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        assert_close(&conv(true), &[silu(8.0) + silu(14.0) + 0.5]);
    }
}
