//! Ways of measuring that others use.

use std::fmt::Display;
use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use transdiff::Cpu;
use transdiff::Result;
use transdiff::metrics::{
    PrecisionRecall, Rows, Score, Statistics, equal_splits, inception_score, numpy_permutation,
    precision_recall,
};

/// Nearest neighbour whose distance is the radius of a picture, for precision and recall.
const NEIGHBOUR: usize = 3;

/// Splits of torch-fidelity's Inception Score.
pub const SPLITS: usize = 10;
/// Pictures per split of ADM's Inception Score; the last split may have fewer.
const ADM_SPLIT: usize = 5000;

/// Way of measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// torch-fidelity 0.4: the Inception Score over ten splits in random order
    TorchFidelity,
    /// The suite of ADM: the Inception Score over splits of 5000 pictures in their order, precision and recall
    /// required
    Adm,
}

/// Results of the network for a set of images.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Features of 2048 channels.
    pub features: Rows,
    /// Scores of the classes, without bias.
    pub logits: Rows,
}

/// The set that images are compared with.
#[derive(Clone, Debug)]
pub struct Reference {
    pub statistics: Statistics,
    /// Features of its pictures, if they are there.
    pub features: Option<Rows>,
}

/// Quality of a set of images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Fréchet Inception distance.
    pub frechet_distance: f64,
    /// Inception Score.
    pub inception_score: Score,
    /// Precision and recall, if the reference has pictures.
    pub precision_recall: Option<PrecisionRecall>,
}

impl Preset {
    /// Returns whether the pictures of the reference are required, and not only their statistics.
    pub fn requires_pictures(self) -> bool {
        self == Self::Adm
    }

    /// Checks that a set of `count` images, called `name` in the message, can be measured; `neighbours` if precision and
    /// recall are part of it.
    pub fn check_count(name: impl Display, count: usize, neighbours: bool) -> crate::failure::Result<()> {
        let (least, why) = match neighbours {
            true => (NEIGHBOUR + 1, "precision and recall"),
            false => (2, "a covariance"),
        };
        match count >= least {
            true => Ok(()),
            false => Err(format!("{name}: expected at least {least} images, for {why}, got {count}").into()),
        }
    }

    /// Order of `count` images, and the splits of that order, for the Inception Score.
    fn splits(self, count: usize) -> Result<(Vec<usize>, Vec<Range<usize>>)> {
        Ok(match self {
            Self::TorchFidelity => (numpy_permutation(2020, count)?, equal_splits(count, SPLITS.min(count))),
            Self::Adm => {
                let splits = (0..count).step_by(ADM_SPLIT).map(|start| start..count.min(start + ADM_SPLIT));
                ((0..count).collect(), splits.collect())
            }
        })
    }

    /// Quality of images against a reference.
    pub fn quality(self, cpu: &Cpu, images: &Measured, reference: &Reference) -> Result<Quality> {
        let statistics = Statistics::of(cpu, &images.features)?;
        let (order, splits) = self.splits(images.logits.len())?;
        let near = |real: &Rows| precision_recall(cpu, &images.features, real, NEIGHBOUR);
        Ok(Quality {
            frechet_distance: statistics.frechet_distance(&reference.statistics)?,
            inception_score: inception_score(&images.logits, &order, &splits)?,
            precision_recall: reference.features.as_ref().map(near).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_those_of_the_programs() {
        let (order, splits) = Preset::Adm.splits(12_000).unwrap();
        assert!(order.into_iter().eq(0..12_000));
        assert_eq!(splits, [0..5000, 5000..10_000, 10_000..12_000]);
        let (order, splits) = Preset::TorchFidelity.splits(25).unwrap();
        // numpy.random.RandomState(2020).permutation(25)
        assert_eq!(order[..5], [18, 1, 23, 13, 12]);
        assert_eq!((splits.len(), &splits[0], &splits[9]), (10, &(0..2), &(22..25)));
    }
}
