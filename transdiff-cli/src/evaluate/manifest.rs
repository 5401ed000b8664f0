//! Manifest of an evaluation: from it, anyone can repeat it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transdiff::Error;
use transdiff::checkpoint::write_bytes_atomic;
use transdiff::models::Diversity;

use super::directory::Results;
use super::machine::Machine;
use super::preset::Quality;
use super::settings::{Images, MANIFEST_FILE, Settings};
use crate::differences::differences;
use crate::failure::Result;

/// Version of its format.
const FORMAT: u32 = 1;

/// A figure with its spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    /// Standard deviation of the population.
    pub std: f64,
}

impl Spread {
    /// Mean and standard deviation of values with weights; `None` of none.
    fn of(values: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Self> {
        let total: f64 = values.clone().map(|(_, weight)| weight).sum();
        let mean = values.clone().map(|(value, weight)| weight * value).sum::<f64>() / total;
        let variance = values.map(|(value, weight)| weight * (value - mean).powi(2)).sum::<f64>() / total;
        (total > 0.0).then(|| Self { mean, std: variance.sqrt() })
    }
}

/// Measures of a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub frechet_distance: f64,
    /// Spread over the splits of the images.
    pub inception_score: Spread,
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    /// Similarity of the semantic features of an image (paper, Appendix D): root mean square and mean of the cosines, spread
    /// over images. Smaller is more diverse.
    pub diversity_root_mean_square: Option<Spread>,
    pub diversity_mean: Option<Spread>,
    /// Generating and decoding, without the first batch of each process; spread over shards.
    pub seconds_per_image: Option<Spread>,
}

impl Figures {
    pub fn new(quality: &Quality, results: &Results) -> Self {
        let over_images = |value: fn(&Diversity) -> f64| {
            Spread::of(results.diversity.iter().map(|diversity| (value(diversity), 1.0)))
        };
        let timed = results.timed.iter().filter(|timed| timed.images > 0);
        let seconds = timed.map(|timed| (timed.seconds / timed.images as f64, timed.images as f64));
        let score = quality.inception_score;
        Self {
            frechet_distance: quality.frechet_distance,
            inception_score: Spread { mean: score.mean, std: score.std },
            precision: quality.precision_recall.map(|found| found.precision),
            recall: quality.precision_recall.map(|found| found.recall),
            diversity_root_mean_square: over_images(|diversity| diversity.root_mean_square),
            diversity_mean: over_images(|diversity| diversity.mean),
            seconds_per_image: Spread::of(seconds),
        }
    }

    /// Names and values for people, of the figures that there are.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let spread = |spread: Spread| format!("{:.6} ± {:.6}", spread.mean, spread.std);
        let number = |number: f64| format!("{number:.6}");
        let all = [
            ("Fréchet Inception distance", Some(number(self.frechet_distance))),
            ("Inception Score", Some(spread(self.inception_score))),
            ("precision", self.precision.map(number)),
            ("recall", self.recall.map(number)),
            ("diversity, root mean square", self.diversity_root_mean_square.map(spread)),
            ("diversity, mean", self.diversity_mean.map(spread)),
            ("seconds per image", self.seconds_per_image.map(spread)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The figures that differ from those of a manifest, times apart.
    pub fn differences(&self, manifest: &Self) -> Vec<String> {
        let untimed = |figures: &Self| Self { seconds_per_image: None, ..figures.clone() };
        differences(&untimed(self), &untimed(manifest))
    }
}

/// The manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    pub settings: Settings<Images>,
    /// All machines that took part.
    pub machines: Vec<Machine>,
    pub figures: Figures,
}

impl Manifest {
    pub fn new(settings: Settings<Images>, machines: Vec<Machine>, figures: Figures) -> Self {
        Self { format: FORMAT, settings, machines, figures }
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let invalid =
            |error: serde_json::Error| Error::format(path, format!("no manifest of an evaluation: {error}"));
        let found: serde_json::Value = serde_json::from_str(&text).map_err(invalid)?;
        match found.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format != u64::from(FORMAT) => {
                let message = format!("format version {format} of a manifest, expected version {FORMAT}");
                Err(Error::format(path, message).into())
            }
            _ => Ok(serde_json::from_value(found).map_err(invalid)?),
        }
    }

    /// Path of the manifest in the directory of an evaluation.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(MANIFEST_FILE)
    }

    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        Ok(write_bytes_atomic(Self::path(directory), text.as_bytes())?)
    }
}
