//! Mean squared error.

use super::{In, Out, gather_contiguous, scatter, scatter_contiguous};

fn differences(a: In<'_>, b: In<'_>) -> Vec<f64> {
    let shape = a.layout.shape();
    let pairs = gather_contiguous(a, shape).into_iter().zip(gather_contiguous(b, shape));
    pairs.map(|(a, b)| a - b).collect()
}

pub(super) fn forward(a: In<'_>, b: In<'_>, loss: Out<'_>) {
    let diffs = differences(a, b);
    scatter(loss, [diffs.iter().map(|d| d * d).sum::<f64>() / diffs.len() as f64]);
}

pub(super) fn backward(a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) {
    let (shape, diffs) = (a.layout.shape(), differences(a, b));
    let factor = 2.0 * super::gather(dloss)[0] / diffs.len() as f64;
    scatter_contiguous(da, shape, diffs.into_iter().map(|d| factor * d));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};

    #[test]
    fn mse_matches_hand_computed_values() {
        let (a, b) = (tensor(&[2], &[1.0, 5.0]), tensor(&[2], &[3.0, 4.0]));
        assert_close(&a.mse(&b).unwrap(), &[2.5]);
        assert_close(&a.mse_backward(&b, &tensor(&[], &[10.0])).unwrap(), &[-20.0, 10.0]);
    }
}
