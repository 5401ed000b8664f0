//! 2-D convolution.

use super::{In, Out, Reference, gather_contiguous, scatter_contiguous};
use crate::backend::{ConvArgs, Windows};

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

/// Row or column of the input, of `side` pixels, that window number `at` along `axis` sees at its row or column `tap`; `None`
/// in the padding.
pub(super) fn source(windows: &Windows, axis: usize, side: usize, at: usize, tap: usize) -> Option<usize> {
    (windows.stride[axis] * at + tap).checked_sub(windows.padding[axis][0]).filter(|&i| i < side)
}

pub(super) fn forward(args: ConvArgs<'_, Reference>, y: Out<'_>) {
    let &[b, h, w, c] = args.x.layout.shape() else { panic!("x is [B, H, W, C]") };
    let &[kh, kw, _, o] = args.w.layout.shape() else { panic!("w is [K, L, C, O]") };
    let scale = if args.doubled { 2 } else { 1 };
    let count = |axis, side| args.windows.count(axis, scale * side).expect("core checks that a window fits");
    let shape @ [_, oh, ow, _] = [b, count(0, h), count(1, w), o];
    let x = scaled(args.x, args.scale_shift);
    let (weight, bias) = (gather_contiguous(args.w, &[kh, kw, c, o]), gather_contiguous(args.b, &[o]));
    let residual = args.residual.map(|r| gather_contiguous(r, &shape));
    let value = |i: usize| {
        let (channel, column, row, image) = (i % o, i / o % ow, i / (o * ow) % oh, i / (o * ow * oh));
        let mut sum = bias[channel] + residual.as_ref().map_or(0.0, |r| r[i]);
        for tap in 0..kh * kw {
            let row = source(&args.windows, 0, scale * h, row, tap / kw);
            let column = source(&args.windows, 1, scale * w, column, tap % kw);
            let Some((row, column)) = row.zip(column) else { continue };
            let pixel = &x[((image * h + row / scale) * w + column / scale) * c..][..c];
            let weight = (0..c).map(|l| weight[(tap * c + l) * o + channel]);
            sum += pixel.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
        }
        // NaN stays.
        if args.relu && sum < 0.0 { 0.0 } else { sum }
    };
    scatter_contiguous(y, &shape, (0..b * oh * ow * o).map(value));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};
    use crate::tensor::{Conv, ScaleShift};

    #[test]
    fn taps_padding_strides_and_doubling_match_hand_computed_values() {
        let x = tensor(&[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
        // Ten times the neighbour above, and the one on the right.
        let w = tensor(&[1, 1, 3, 3], &[0.0, 10.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let b = tensor(&[1], &[100.0]);
        let conv = |how: &Conv<'_, _>| x.conv2d(&w, &b, how).unwrap();
        let same = Conv { padding: [[1; 2]; 2], ..Conv::default() };
        assert_close(&conv(&same), &[102.0, 100.0, 114.0, 120.0]);
        let halved = conv(&Conv { stride: [2; 2], padding: [[0, 1]; 2], ..Conv::default() });
        // The only window begins at the first pixel: the pixel above its centre is 2.
        assert_close(&halved, &[120.0]);
        let doubled = conv(&Conv { doubled: true, ..same });
        let rows = [[101.0, 102.0, 102.0, 100.0], [111.0, 112.0, 122.0, 120.0]];
        let below = [[113.0, 114.0, 124.0, 120.0], [133.0, 134.0, 144.0, 140.0]];
        assert_close(&doubled, &[rows, below].concat().concat());
    }

    #[test]
    fn sides_of_kernel_stride_and_padding_may_differ() {
        let x = tensor(&[1, 3, 4, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        // The pixel, minus the one on its right.
        let (w, b) = (tensor(&[1, 1, 1, 2], &[1.0, -1.0]), tensor(&[1], &[0.0]));
        let how = Conv { stride: [2, 3], padding: [[0, 1], [1, 3]], relu: true, ..Conv::default() };
        // Windows begin at rows 0 and 2, and at columns -1, 2 and 5, of which the last has padding alone.
        assert_close(&x.conv2d(&w, &b, &how).unwrap(), &[0.0; 6]);
        let how = Conv { relu: false, ..how };
        assert_close(&x.conv2d(&w, &b, &how).unwrap(), &[-1.0, -1.0, 0.0, -9.0, -1.0, 0.0]);
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
