//! One phase of training: goes on from its checkpoint, leaves one when it ends or is interrupted.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use transdiff::data::{Dataset, MemoryDataset};
use transdiff::models::Model;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{Backend, TransDiff};

use crate::digits::{Digits, LATENT_SIDE, to_latent};
use crate::progress::TrainingBar;

/// Steps between checkpoints.
const CHECKPOINT_EVERY: u64 = 500;

/// A phase: its name, and where its checkpoint and its losses are kept.
pub struct Training<'a> {
    /// For the progress bar.
    pub name: &'static str,
    /// The file of the run.
    pub checkpoint: PathBuf,
    /// Set when the user wants to stop.
    pub interrupted: &'a AtomicBool,
}

/// What a phase left.
pub struct Trained<B: Backend> {
    /// The average of the weights.
    pub model: TransDiff<B>,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// Seconds in training steps, those of earlier runs included.
    pub seconds: f64,
}

/// The latents of the digits.
pub fn latents(digits: &Digits) -> transdiff::Result<MemoryDataset> {
    let values = digits.images.iter().flat_map(to_latent).collect();
    MemoryDataset::new([4, LATENT_SIDE, LATENT_SIDE], values, digits.labels.clone())
}

impl Training<'_> {
    /// Trains to the end of `config`'s schedule; `start` gives the first model of a run that has no checkpoint.
    /// `None` if the user interrupted it.
    pub fn run<B: Backend>(
        &self,
        backend: &B,
        set: &MemoryDataset,
        config: TrainConfig,
        fresh: bool,
        start: impl FnOnce() -> transdiff::Result<TransDiff<B>>,
    ) -> Result<Option<Trained<B>>, Box<dyn Error>> {
        let resumes = !fresh && self.checkpoint.exists();
        let mut trainer = match resumes {
            true => Trainer::resume(backend, &self.checkpoint)?,
            false => Trainer::new(start()?, config.clone())?,
        };
        trainer.reconfigure(config)?;
        let mut log = Log::open(&self.checkpoint.with_extension("csv"), trainer.steps_done())?;
        if resumes {
            println!(
                "{}: going on from step {} of {}",
                self.name,
                trainer.steps_done(),
                self.checkpoint.display()
            );
        }
        if !self.steps(&mut trainer, set, &mut log)? {
            println!("\nInterrupted. The same command goes on from {}.", self.checkpoint.display());
            return Ok(None);
        }
        Ok(Some(Trained { model: trainer.ema().clone(), losses: log.losses, seconds: log.seconds }))
    }

    /// Whether all steps were done.
    fn steps<B: Backend>(
        &self,
        trainer: &mut Trainer<B>,
        set: &dyn Dataset,
        log: &mut Log,
    ) -> Result<bool, Box<dyn Error>> {
        let total = trainer.config().lr.total;
        let images = trainer.config().batch * trainer.model().config().groups();
        let mut bar = TrainingBar::new(self.name, total, trainer.steps_done());
        while trainer.steps_done() < total {
            let started = Instant::now();
            let report = trainer.step(set)?;
            log.seconds += started.elapsed().as_secs_f64();
            log.losses.push(report.loss as f32);
            bar.step(report.loss as f32, images);
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            let done = trainer.steps_done();
            if interrupted || done == total || done.is_multiple_of(CHECKPOINT_EVERY) {
                trainer.save(&self.checkpoint)?;
                log.save()?;
            }
            if interrupted && done < total {
                return Ok(false);
            }
        }
        bar.finish();
        Ok(true)
    }
}

/// The losses so far, beside the checkpoint: the curve of a resumed run is whole.
struct Log {
    path: PathBuf,
    losses: Vec<f32>,
    seconds: f64,
}

impl Log {
    /// The log of a run of which `done` steps are done; what is missing of it is not made up.
    fn open(path: &Path, done: u64) -> Result<Self, Box<dyn Error>> {
        let mut log = Self { path: path.to_owned(), losses: Vec::new(), seconds: 0.0 };
        if done == 0 || !path.exists() {
            return Ok(log);
        }
        let text = fs::read_to_string(path)?;
        let mut lines = text.lines();
        let seconds = lines.next().and_then(|line| line.strip_prefix("seconds,"));
        log.seconds = seconds.ok_or_else(|| format!("{}: expected seconds,N", path.display()))?.parse()?;
        log.losses = lines.map(str::parse).collect::<Result<_, _>>()?;
        log.losses.truncate(done as usize);
        Ok(log)
    }

    fn save(&self) -> Result<(), Box<dyn Error>> {
        let mut text = format!("seconds,{}\n", self.seconds);
        self.losses.iter().for_each(|loss| text += &format!("{loss}\n"));
        Ok(fs::write(&self.path, text)?)
    }
}
