//! Group normalisation.

use super::{In, Out, gather_contiguous, scatter_contiguous};

pub(super) fn forward(x: In<'_>, affine: (In<'_>, In<'_>), groups: usize, eps: f64, scale_shift: Out<'_>) {
    let &[b, h, w, c] = x.layout.shape() else { panic!("x is [B, H, W, C]") };
    assert!(h * w > 0 && c.is_multiple_of(groups));
    let x = gather_contiguous(x, &[b, h, w, c]);
    let (weight, bias) = (gather_contiguous(affine.0, &[c]), gather_contiguous(affine.1, &[c]));
    let mut out = vec![0.0; b * 2 * c];
    for image in 0..b {
        let pixels = &x[image * h * w * c..][..h * w * c];
        for channel in 0..c {
            let group = channel * groups / c;
            let of_group: Vec<f64> =
                (0..pixels.len()).filter(|i| i % c * groups / c == group).map(|i| pixels[i]).collect();
            let n = of_group.len() as f64;
            let mean = of_group.iter().sum::<f64>() / n;
            let variance = of_group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let scale = weight[channel] / (variance + eps).sqrt();
            out[image * 2 * c + channel] = scale;
            out[(image * 2 + 1) * c + channel] = bias[channel] - mean * scale;
        }
    }
    scatter_contiguous(scale_shift, &[b, 2, c], out);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};

    #[test]
    fn statistics_are_per_group_over_all_pixels() {
        // Two pixels of four channels in two groups: (1, 3, 1, 3) and (0, 0, 8, 8).
        let x = tensor(&[1, 1, 2, 4], &[1.0, 3.0, 0.0, 0.0, 1.0, 3.0, 8.0, 8.0]);
        let (w, b) = (tensor(&[4], &[1.0, 2.0, 4.0, 8.0]), tensor(&[4], &[0.0, 1.0, 0.0, 0.0]));
        let scale_shift = x.group_norm(&w, &b, 2, 0.0).unwrap();
        assert_close(&scale_shift, &[1.0, 2.0, 1.0, 2.0, -2.0, -3.0, -4.0, -8.0]);
    }
}
