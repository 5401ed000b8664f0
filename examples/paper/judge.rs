//! Measures of images by the classifier.

use serde::{Deserialize, Serialize};
use transdiff::autograd::Context;
use transdiff::models::Model;
use transdiff::{Backend, Cpu, DType, Result, Tensor};
use transdiff_metrics::{Rows, Statistics, equal_splits, inception_score};

use crate::classifier::{Classifier, softmax};
use crate::pictures::{CLASSES, Pictures, to_value};

/// Images that the classifier takes at a time.
const BATCH: usize = 500;

/// Measures of a set of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Fréchet distance to the held-out pictures, in the features of the classifier.
    pub frechet_distance: f64,
    /// Inception Score of the class probabilities of all images at once.
    pub inception_score: f64,
    /// Share of images that the classifier assigns to their class; of mixtures, to the first class.
    pub accuracy: f64,
    /// Share of images that it assigns to the partner of their class, the second class of mixtures.
    pub partner: f64,
    /// Mean of the largest class probability.
    pub confidence: f64,
    /// Cosines of the semantic features; none for a single feature.
    pub cosines: Option<Cosines>,
}

/// Off-diagonal cosines of the semantic features of an image, mean over images; smaller is more diverse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cosines {
    /// Root mean square.
    pub root_mean_square: f64,
    /// Mean.
    pub mean: f64,
}

/// Class whose features are mixed with those of class `label`: five pairs of unlike clothes.
pub fn partner(label: usize) -> usize {
    const PARTNERS: [usize; CLASSES.len()] = [1, 0, 8, 4, 3, 9, 7, 6, 2, 5];
    PARTNERS[label]
}

/// Measures images with a classifier, by comparison with held-out pictures.
pub struct Judge<B: Backend> {
    classifier: Classifier<B>,
    cpu: Cpu,
    side: usize,
    real: Statistics,
    /// Share of the held-out pictures that the classifier assigns to their class.
    pub held_out_accuracy: f64,
    /// Inception Score of the held-out pictures.
    pub held_out_score: f64,
}

impl<B: Backend> Judge<B> {
    /// A judge that compares with `held_out`; statistics are computed on `cpu`.
    pub fn new(classifier: Classifier<B>, cpu: Cpu, held_out: &Pictures) -> Result<Self> {
        let [features, logits] = outputs(&classifier, &held_out.pixels, held_out.side)?;
        Ok(Self {
            real: Statistics::of(&cpu, &features)?,
            held_out_accuracy: share(&logits, held_out.labels.iter().copied()),
            held_out_score: score(&logits)?,
            side: held_out.side,
            classifier,
            cpu,
        })
    }

    /// Fréchet distance of the first `count` of `pictures` to the held-out ones: the floor of this measure.
    pub fn distance_of_real(&self, pictures: &Pictures, count: usize) -> Result<f64> {
        let pixels = &pictures.pixels[..count.min(pictures.labels.len()) * self.side * self.side];
        let [features, _] = outputs(&self.classifier, pixels, self.side)?;
        Statistics::of(&self.cpu, &features)?.frechet_distance(&self.real)
    }

    /// Measures images of 8 bits that were generated for `labels`, from features with these `cosines`.
    pub fn measure(&self, pixels: &[u8], labels: &[usize], cosines: Option<Cosines>) -> Result<Measures> {
        let [features, logits] = outputs(&self.classifier, pixels, self.side)?;
        let largest = |row: usize| softmax(logits.row(row)).into_iter().fold(0.0, f64::max);
        Ok(Measures {
            frechet_distance: Statistics::of(&self.cpu, &features)?.frechet_distance(&self.real)?,
            inception_score: score(&logits)?,
            accuracy: share(&logits, labels.iter().copied()),
            partner: share(&logits, labels.iter().map(|&label| partner(label))),
            confidence: (0..logits.len()).map(largest).sum::<f64>() / logits.len() as f64,
            cosines,
        })
    }
}

/// Features and logits of images of 8 bits.
fn outputs<B: Backend>(classifier: &Classifier<B>, pixels: &[u8], side: usize) -> Result<[Rows; 2]> {
    let (mut features, mut logits, mut widths) = (Vec::new(), Vec::new(), [0; 2]);
    for batch in pixels.chunks(BATCH * side * side) {
        let values = batch.iter().map(|&pixel| to_value(pixel)).collect();
        let shape = [batch.len() / (side * side), 1, side, side];
        let images = Tensor::from_f32(classifier.backend(), &shape, values, DType::F32)?;
        let [hidden, scores] = classifier.outputs(&Context::inference(), &images)?;
        widths = [hidden.dim(1), scores.dim(1)];
        features.extend(hidden.into_value().to_f32()?);
        logits.extend(scores.into_value().to_f32()?);
    }
    Ok([Rows::new(widths[0], features)?, Rows::new(widths[1], logits)?])
}

/// Share of images whose largest logit is that of their class.
fn share(logits: &Rows, classes: impl Iterator<Item = usize>) -> f64 {
    let largest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let hits = classes.enumerate().filter(|&(row, class)| largest(logits.row(row)) == Some(class));
    hits.count() as f64 / logits.len() as f64
}

/// Inception Score of all images at once.
fn score(logits: &Rows) -> Result<f64> {
    let order: Vec<usize> = (0..logits.len()).collect();
    Ok(inception_score(logits, &order, &equal_splits(order.len(), 1))?.mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_paired() {
        for class in 0..CLASSES.len() {
            assert!(partner(class) != class && partner(partner(class)) == class);
        }
    }

    #[test]
    fn shares_count_the_largest_logit() {
        let logits = Rows::new(2, vec![1.0, 0.0, -1.0, 2.0, 3.0, 1.0, 0.5, 0.0]).unwrap();
        assert_eq!(share(&logits, [0, 1, 1, 0].into_iter()), 0.75);
        assert_eq!(share(&logits, [1, 0, 1, 0].into_iter()), 0.25);
    }
}
