//! Figures of an evaluation for TensorBoard, under the names that the published implementation gives them.

use std::fs;
use std::path::Path;

use transdiff::Error;
use transdiff::diffusion::SolverKind;
use transdiff_run::EventFile;

use super::manifest::Figures;
use super::settings::Generated;
use crate::failure::Result;
use crate::load_hints::WeightSetArg;
use crate::sampling_args::SolverArg;

/// Writes distance and score to an event file in the folder `events` of `directory`.
pub fn write(directory: &Path, generated: &Generated, figures: &Figures) -> Result<()> {
    let folder = directory.join("events");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let mut events = EventFile::create(&folder, 0)?;
    let suffix = suffix(generated);
    events.scalar(0, &format!("fid{suffix}"), figures.frechet_distance)?;
    Ok(events.scalar(0, &format!("is{suffix}"), figures.inception_score.mean)?)
}

/// `_ema` for EMA weights, `_cfgW` for a guidance scale W other than 1, and the solver unless it is the paper's.
fn suffix(generated: &Generated) -> String {
    let Generated { hints, sampling, .. } = generated;
    let mut suffix = String::new();
    if matches!(hints.weights, Some(WeightSetArg::Ema)) {
        suffix += "_ema";
    }
    if sampling.guidance.iter().any(|&scale| scale != 1.0) {
        // As Python writes numbers: 2.0 and not 2.
        let scales: Vec<String> = sampling.guidance.iter().map(|scale| format!("{scale:?}")).collect();
        suffix += &format!("_cfg{}", scales.join(","));
    }
    if let Some(solver) = sampling.solver.filter(|&solver| solver != SolverArg::EulerMaruyama) {
        suffix += &format!("_{}", SolverKind::from(solver).name());
        suffix += &sampling.order.map_or(String::new(), |order| format!("{order}"));
    }
    suffix
}
