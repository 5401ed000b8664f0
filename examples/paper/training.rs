//! Training that resumes from its checkpoint, and leaves the EMA weights in a file.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use transdiff::Backend;
use transdiff::checkpoint::WeightFile;
use transdiff::data::LoaderOptions;
use transdiff::models::{Codec, Trainable};
use transdiff::train::{StepReport, Trainer};
use transdiff_terminal::{StepProgress, TrainingBar};

use crate::pictures::Pictures;

/// Steps between checkpoints.
const CHECKPOINT_EVERY: u64 = 500;
/// Lines of progress without a terminal.
const LINES: u64 = 4;

/// Codec of a model of latents; the classifier has none.
pub type ModelCodec<B> = Option<Arc<dyn Codec<B>>>;

/// A training, and its files.
pub struct Training<'a> {
    /// Name in the progress bar.
    pub name: String,
    /// File of the EMA weights.
    pub file: PathBuf,
    /// File of the checkpoint, which is removed at the end.
    pub checkpoint: PathBuf,
    /// Set on Ctrl-C.
    pub interrupted: &'a AtomicBool,
}

/// Number of steps that the checkpoint at `path` has done; 0 without one.
pub fn steps_done(path: &Path) -> transdiff::Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let file = WeightFile::open(path)?;
    Ok(file.metadata().get("transdiff.step").and_then(|step| step.parse().ok()).unwrap_or(0))
}

impl Training<'_> {
    /// Trains to the end of the schedule; `trainer` makes the trainer, or that of a checkpoint that is there.
    /// `visit` is called with the number of steps and the EMA weights after each step. Returns false if the user interrupted it.
    pub fn run<B: Backend, M: Trainable<B>>(
        &self,
        pictures: &Arc<Pictures>,
        codec: ModelCodec<B>,
        trainer: impl FnOnce(Option<&Path>) -> transdiff::Result<Trainer<B, M>>,
        visit: impl Fn(u64, &M) -> transdiff::Result<()>,
    ) -> Result<bool, Box<dyn Error>> {
        let checkpoint = Some(self.checkpoint.as_path()).filter(|path| path.exists());
        let trainer = trainer(checkpoint)?;
        let mut trainer = match codec {
            Some(codec) => trainer.with_codec(codec),
            None => trainer,
        };
        let mut data = trainer.loader(pictures.clone(), LoaderOptions::default())?;
        let total = trainer.config().lr.total;
        let images = trainer.config().batch * trainer.model().sample_shape().latents_per_sample;
        let mut bar = TrainingBar::new(&self.name, total, trainer.steps_done(), total.div_ceil(LINES));
        while trainer.steps_done() < total {
            let StepReport { loss, lr, grad_norm, .. } = trainer.step(&mut data)?;
            bar.step(StepProgress { loss, lr, grad_norm, images });
            let done = trainer.steps_done();
            visit(done, trainer.ema())?;
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if done < total && (interrupted || done.is_multiple_of(CHECKPOINT_EVERY)) {
                trainer.save(&self.checkpoint)?;
            }
            if done < total && interrupted {
                return Ok(false);
            }
        }
        bar.finish();
        trainer.ema().save(&self.file)?;
        if self.checkpoint.exists() {
            std::fs::remove_file(&self.checkpoint)?;
        }
        Ok(true)
    }
}
