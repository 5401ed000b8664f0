//! Inception Score (Salimans et al. 2016).

use std::ops::Range;

use transdiff_core::{Error, Result};

use crate::rows::Rows;

/// Mean and standard deviation of a measure over the splits of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub std: f64,
}

/// Splits 0..`count` into `splits` ranges, of which range i begins at i·`count`/`splits`.
pub fn equal_splits(count: usize, splits: usize) -> Vec<Range<usize>> {
    (0..splits).map(|i| i * count / splits..(i + 1) * count / splits).collect()
}

/// Inception Score exp(mean KL(p(y|x) ‖ p(y))) of `logits`, the scores of classes before the softmax, over `splits`, ranges of
/// the images in the order `permutation`.
///
/// # Errors
/// [`Error::Argument`] if there is no split or an empty one, a split ends after the last image, or `permutation` is none of
/// the images.
pub fn inception_score(logits: &Rows, permutation: &[usize], splits: &[Range<usize>]) -> Result<Score> {
    let count = logits.len();
    if splits.is_empty() || splits.iter().any(|split| split.is_empty() || split.end > count) {
        let expected = format!("at least one range of 0..{count}, none of them empty");
        return Err(Error::argument("splits", expected, format!("{splits:?}")));
    }
    let mut seen = vec![false; count];
    let is_permutation = permutation.len() == count
        && permutation.iter().all(|&at| at < count && !std::mem::replace(&mut seen[at], true));
    if !is_permutation {
        return Err(Error::argument("permutation", format!("an order of {count} images"), "another"));
    }
    let scores: Vec<f64> = splits.iter().map(|split| score(logits, &permutation[split.clone()])).collect();
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
    Ok(Score { mean, std: variance.sqrt() })
}

fn score(logits: &Rows, images: &[usize]) -> f64 {
    let log_p: Vec<Vec<f64>> = images.iter().map(|&image| log_softmax(logits.row(image))).collect();
    let mut marginal = vec![0.0; logits.columns()];
    for row in &log_p {
        marginal.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.exp());
    }
    let log_q: Vec<f64> = marginal.iter().map(|sum| (sum / images.len() as f64).ln()).collect();
    // A class that no image has adds nothing, whatever the logarithm of its share.
    let term = |(p, q): (&f64, &f64)| if p.exp() > 0.0 { p.exp() * (p - q) } else { 0.0 };
    let divergence = |row: &Vec<f64>| row.iter().zip(&log_q).map(term).sum::<f64>();
    (log_p.iter().map(divergence).sum::<f64>() / images.len() as f64).exp()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let shifted: Vec<f64> = row.iter().map(|&x| f64::from(x) - max).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
    shifted.into_iter().map(|x| x - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certain_and_different_images_have_the_number_of_classes() {
        let values = (0..9).map(|i| if i % 4 == 0 { 2000.0 } else { 0.0 }).collect();
        let logits = Rows::new(3, values).unwrap();
        let score = inception_score(&logits, &[2, 0, 1], &equal_splits(3, 1)).unwrap();
        assert!((score.mean - 3.0).abs() < 1e-12 && score.std == 0.0, "{score:?}");
        // A split with a single image has no diversity.
        let score = inception_score(&logits, &[2, 0, 1], &equal_splits(3, 2)).unwrap();
        assert!((score.mean - 1.5).abs() < 1e-12 && (score.std - 0.5).abs() < 1e-12, "{score:?}");
    }

    #[test]
    fn orders_and_splits_are_checked() {
        let logits = Rows::new(1, vec![0.0; 3]).unwrap();
        let message = |order: &[usize], splits: &[Range<usize>]| {
            inception_score(&logits, order, splits).unwrap_err().to_string()
        };
        for splits in [equal_splits(3, 4), equal_splits(3, 0), equal_splits(4, 1)] {
            assert!(message(&[0, 1, 2], &splits).contains("splits: expected at least one range of 0..3"));
        }
        for order in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3]] {
            assert!(message(order, &equal_splits(3, 1)).contains("an order of 3 images"));
        }
    }
}
