//! Output for other programs: `report.json` and `samples.safetensors`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use transdiff::checkpoint::{write_atomic, write_bytes_atomic};

use crate::digits::{Digits, Image, SIDE};
use crate::evaluate::{Evaluator, Quality};

/// All measurements and the settings that they were made with.
#[derive(Serialize)]
pub struct Report<'a, S: Serialize> {
    /// Quality of the images in `samples.safetensors`.
    #[serde(flatten)]
    pub samples: Quality,
    /// The same measures on real digits.
    pub real_digits: RealDigits,
    /// One row per AR step and guidance scale.
    pub steps: Vec<StepQuality>,
    /// Wall-clock times.
    pub seconds: Seconds,
    /// The command's settings.
    pub settings: &'a S,
}

/// Measures of real digits: the best that samples could reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RealDigits {
    /// Accuracy of the classifier on the test digits.
    pub classifier_accuracy: f64,
    /// Fréchet distance of the training digits to the test digits.
    pub frechet_distance: f64,
    /// Mean distance of a test digit to the nearest training digit.
    pub nearest_training_digit: f64,
}

impl RealDigits {
    /// Measures the real digits.
    pub fn measure(evaluator: &Evaluator, train: &Digits, test: &Digits) -> Result<Self, Box<dyn Error>> {
        let held_out = evaluator.quality(&test.images, &test.labels)?;
        Ok(Self {
            classifier_accuracy: held_out.accuracy,
            frechet_distance: evaluator.frechet_distance(&train.images)?,
            nearest_training_digit: held_out.nearest_training_digit,
        })
    }
}

/// Quality of the samples of one AR step at one guidance scale.
#[derive(Clone, Debug, Serialize)]
pub struct StepQuality {
    /// The model, "1-step" or "MRAR".
    pub model: &'static str,
    /// Index of the AR step.
    pub step: usize,
    /// Scale of classifier-free guidance.
    pub guidance: f32,
    /// The measures.
    #[serde(flatten)]
    pub quality: Quality,
}

/// Wall-clock times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Time of all training, earlier runs included.
    pub training: f64,
    /// Time of all sampling.
    pub sampling: f64,
}

impl<S: Serialize> Report<'_, S> {
    /// Writes the report as indented JSON.
    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        Ok(write_bytes_atomic(path, json.as_bytes())?)
    }

    /// Prints the measures as a table.
    pub fn print(&self) {
        println!("{:<18} {:>8} {:>8} {:>9} {:>8}", "", "guidance", "accuracy", "Fréchet", "nearest");
        for StepQuality { model, step, guidance, quality } in &self.steps {
            let Quality { accuracy, frechet_distance, nearest_training_digit } = quality;
            let name = format!("{model} step {step}");
            println!(
                "{name:<18} {guidance:>8.1} {accuracy:>8.3} {frechet_distance:>9.1} {nearest_training_digit:>8.1}"
            );
        }
        let RealDigits { classifier_accuracy, frechet_distance, nearest_training_digit } = self.real_digits;
        println!(
            "{:<18} {:>8} {classifier_accuracy:>8.3} {frechet_distance:>9.1} {nearest_training_digit:>8.1}",
            "real digits", ""
        );
    }
}

/// Writes `images` [N,1,8,8] f32 in 0..=16 and `labels` [N] i64.
pub fn write_samples(path: &Path, images: &[Image], labels: &[usize]) -> Result<(), Box<dyn Error>> {
    let pixels: Vec<u8> = images.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let classes: Vec<u8> = labels.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect();
    let tensors = [
        ("images", TensorView::new(Dtype::F32, vec![images.len(), 1, SIDE, SIDE], &pixels)?),
        ("labels", TensorView::new(Dtype::I64, vec![labels.len()], &classes)?),
    ];
    Ok(write_atomic(path, tensors, &BTreeMap::new())?)
}
