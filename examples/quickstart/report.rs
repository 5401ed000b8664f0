//! What the example leaves behind for other programs: `report.json` and `samples.safetensors`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use transdiff_core::checkpoint::write_atomic;

use crate::digits::{Digits, Image, SIDE};
use crate::evaluate::{Evaluator, Quality};

/// Everything measured, with the settings that gave it.
#[derive(Serialize)]
pub struct Report<'a, S: Serialize> {
    /// Of the images in `samples.safetensors`.
    #[serde(flatten)]
    pub samples: Quality,
    /// What the same measures say of real digits.
    pub real_digits: RealDigits,
    /// One row a generation step and guidance.
    pub steps: Vec<Step>,
    /// Wall-clock times.
    pub seconds: Seconds,
    /// The command's settings.
    pub settings: &'a S,
}

/// The measures of real digits: what perfect samples could reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RealDigits {
    /// Share of the test digits that the classifier recognises.
    pub classifier_accuracy: f64,
    /// Fréchet distance of the training digits to the test digits.
    pub frechet_distance: f64,
    /// Mean distance of a test digit to the nearest training digit.
    pub nearest_training_digit: f64,
}

impl RealDigits {
    /// Measures the real digits themselves.
    pub fn measure(evaluator: &Evaluator, train: &Digits, test: &Digits) -> Result<Self, Box<dyn Error>> {
        let held_out = evaluator.quality(&test.images, &test.labels)?;
        Ok(Self {
            classifier_accuracy: held_out.accuracy,
            frechet_distance: evaluator.frechet_distance(&train.images),
            nearest_training_digit: held_out.nearest_training_digit,
        })
    }
}

/// The samples of one generation step at one guidance.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The model, "1-step" or "MRAR".
    pub model: &'static str,
    /// The generation step, from 0.
    pub step: usize,
    /// Scale of classifier-free guidance.
    pub guidance: f32,
    /// What was measured.
    #[serde(flatten)]
    pub quality: Quality,
}

/// Wall-clock times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Of all training, resumed runs included.
    pub training: f64,
    /// Of all sampling.
    pub sampling: f64,
}

impl<S: Serialize> Report<'_, S> {
    /// Writes the report as indented JSON.
    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Prints the measures as a table.
    pub fn print(&self) {
        println!("{:<18} {:>8} {:>8} {:>9} {:>8}", "", "guidance", "accuracy", "Fréchet", "nearest");
        for Step { model, step, guidance, quality } in &self.steps {
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

/// Writes `images` [N,1,8,8] f32 in 0..16 and `labels` [N] i64.
pub fn write_samples(path: &Path, images: &[Image], labels: &[usize]) -> Result<(), Box<dyn Error>> {
    let pixels: Vec<u8> = images.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let classes: Vec<u8> = labels.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect();
    let tensors = [
        ("images", TensorView::new(Dtype::F32, vec![images.len(), 1, SIDE, SIDE], &pixels)?),
        ("labels", TensorView::new(Dtype::I64, vec![labels.len()], &classes)?),
    ];
    Ok(write_atomic(path, tensors, &BTreeMap::new())?)
}
