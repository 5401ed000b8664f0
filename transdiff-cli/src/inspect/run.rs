//! `transdiff inspect RUN`: progress, checkpoints and settings of a training run.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use transdiff::checkpoint::WeightFile;
use transdiff::models::ImageSpec;
use transdiff::train::TrainConfig;
use transdiff_core::text::printable;
use transdiff_run::settings::RunConfig;
use transdiff_run::{CheckpointFile, Report, RunDirectory, RunLog};

use super::text::{image_rows, pairs, rows, section};
use crate::failure::Result;
use crate::format::bytes;
use crate::output;

/// Settings that the summary shows, beside those of the model.
const SHOWN: [&str; 24] = [
    "distill.teacher",
    "distill.guidance",
    "data.path",
    "data.codec",
    "data.size",
    "data.channels",
    "data.fit",
    "data.flip",
    "data.val",
    "data.mrar_index",
    "train.batch",
    "train.accumulate",
    "train.accumulate_as",
    "train.lr",
    "train.base_lr",
    "train.warmup",
    "train.warmup_epochs",
    "train.decay",
    "train.batch_mul",
    "train.label_drop",
    "train.dropout",
    "train.ema_decay",
    "train.compute",
    "train.seed",
];

/// Prints the summary of a run.
pub fn print(directory: &RunDirectory, as_json: bool) -> Result<()> {
    let summary = RunSummary::read(directory)?;
    match as_json {
        true => output::print(format!("{:#}\n", summary.json())),
        false => output::print(summary.text()),
    }
}

/// Facts about a run.
struct RunSummary<'a> {
    path: &'a Path,
    settings: RunConfig,
    reports: Vec<Report>,
    /// Checkpoints with their sizes in bytes, the oldest first.
    checkpoints: Vec<(CheckpointFile, u64)>,
    /// Size of the model's file in bytes.
    model: Option<u64>,
    /// Steps of the run, known once there is a checkpoint or where the settings tell it.
    steps: Option<u64>,
    /// Images that the newest checkpoint describes.
    images: Option<ImageSpec>,
}

impl<'a> RunSummary<'a> {
    fn read(directory: &'a RunDirectory) -> Result<Self> {
        let settings = RunConfig::load(&directory.config())?;
        let reports = RunLog::read(directory.log())?;
        let size = |path: &Path| std::fs::metadata(path).ok().map(|file| file.len());
        // A running process may remove a checkpoint after it was listed.
        let listed = directory.checkpoints()?.into_iter();
        let checkpoints: Vec<_> =
            listed.filter_map(|file| size(&file.path).map(|bytes| (file, bytes))).collect();
        let newest = checkpoints.last().and_then(|(file, _)| WeightFile::open(&file.path).ok());
        // Of any objective.
        let train: Option<TrainConfig<Value>> =
            newest.as_ref().and_then(|file| recorded(file, TrainConfig::METADATA_KEY));
        let images = newest.as_ref().and_then(|file| recorded(file, ImageSpec::METADATA_KEY));
        Ok(Self {
            path: directory.path(),
            steps: settings.train.steps.or(train.map(|train| train.lr.total)),
            settings,
            reports,
            checkpoints,
            model: size(&directory.model()),
            images,
        })
    }

    /// Steps after which the newest report or checkpoint was written.
    fn steps_done(&self) -> u64 {
        let reported = self.reports.last().map_or(0, |report| report.step);
        reported.max(self.checkpoints.last().map_or(0, |(file, _)| file.step))
    }

    fn text(&self) -> String {
        let mut out = format!("{}\n", printable(&self.path.display().to_string()));
        let done = self.steps_done();
        let steps = match (self.steps, self.settings.train.epochs) {
            (Some(steps), _) => format!("{done} of {steps}"),
            (None, Some(epochs)) => format!("{done}, of {epochs} epochs"),
            (None, None) => done.to_string(),
        };
        let mut shown = rows([("kind", "training run".to_owned()), ("steps", steps)]);
        if let Some(report) = self.reports.last() {
            shown.extend(rows([
                ("samples", report.samples.to_string()),
                ("seconds", format!("{:.1}", report.seconds)),
                ("loss", format!("{:.4} after step {}", report.loss, report.step)),
            ]));
            let val_loss = report.val_loss.map(|loss| ("validation loss", format!("{loss:.4}")));
            shown.extend(rows(val_loss));
            shown.extend(rows([("images per second", format!("{:.1}", report.images_per_second))]));
        }
        out.push_str(&pairs(shown));
        let files = self.checkpoints.iter().map(|(file, size)| (file.path.as_path(), *size));
        let model = self.model.map(|size| (Path::new("model.safetensors"), size));
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        section(&mut out, "files", files.chain(model).map(|(path, size)| (name(path), bytes(size))));
        section(&mut out, "images", self.images.iter().flat_map(image_rows));
        section(&mut out, "settings", self.settings().into_iter());
        out
    }

    /// Settings of interest, as TOML.
    fn settings(&self) -> Vec<(String, String)> {
        let shown = |key: &str| key.starts_with("model.") || SHOWN.contains(&key);
        let all = self.settings.entries();
        all.into_iter().filter(|(key, _)| shown(key)).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn json(&self) -> Value {
        let checkpoints = self.checkpoints.iter().map(|(file, bytes)| {
            json!({"path": file.path.display().to_string(), "step": file.step, "bytes": bytes})
        });
        json!({
            "path": self.path.display().to_string(),
            "kind": "run",
            "steps_done": self.steps_done(),
            "steps": self.steps,
            "last_report": self.reports.last(),
            "checkpoints": checkpoints.collect::<Vec<_>>(),
            "model_bytes": self.model,
            "images": self.images,
            "settings": self.settings,
        })
    }
}

/// A value that a checkpoint records, unless it is missing or of another version.
fn recorded<T: DeserializeOwned>(file: &WeightFile, key: &str) -> Option<T> {
    serde_json::from_str(file.metadata().get(key)?).ok()
}
