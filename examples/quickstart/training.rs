//! One phase of training: resumes from its checkpoint, and writes one when it ends or is interrupted.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use transdiff::checkpoint::write_bytes_atomic;
use transdiff::data::{DataLoader, LoaderOptions, MemoryDataset};
use transdiff::models::Model;
use transdiff::models::transdiff::SampleDraws;
use transdiff::train::{StepReport, TrainConfig, Trainer};
use transdiff::{Backend, TransDiff};
use transdiff_terminal::{StepProgress, TrainingBar};

use crate::digits::{Digits, LATENT_SIDE, to_latent};

/// Steps between checkpoints.
const CHECKPOINT_EVERY: u64 = 500;

/// A phase of training: its name, and the path of its checkpoint and loss log.
pub struct Training<'a> {
    /// Name in the progress bar.
    pub name: &'static str,
    /// Path of the checkpoint.
    pub checkpoint: PathBuf,
    /// Set on Ctrl-C.
    pub interrupted: &'a AtomicBool,
}

/// Result of a phase.
pub struct Trained<B: Backend> {
    /// The EMA weights.
    pub model: TransDiff<B>,
    /// Loss of each step.
    pub losses: Vec<f32>,
    /// Seconds spent in training steps, earlier runs included.
    pub seconds: f64,
}

/// Data set of the digits' latents.
pub fn latents(digits: &Digits) -> transdiff::Result<Arc<MemoryDataset>> {
    let values = digits.images.iter().flat_map(to_latent).collect();
    let set = MemoryDataset::new([4, LATENT_SIDE, LATENT_SIDE], values, digits.labels.clone())?;
    Ok(Arc::new(set))
}

impl Training<'_> {
    /// Trains to the end of `config`'s schedule; `initial` makes the model of a run without a checkpoint. Returns
    /// `None` if the user interrupted it.
    pub fn run<B: Backend>(
        &self,
        backend: &B,
        set: Arc<MemoryDataset>,
        config: TrainConfig,
        fresh: bool,
        initial: impl FnOnce() -> transdiff::Result<TransDiff<B>>,
    ) -> Result<Option<Trained<B>>, Box<dyn Error>> {
        let resumes = !fresh && self.checkpoint.exists();
        let mut trainer = match resumes {
            true => Trainer::resume(backend, &self.checkpoint)?,
            false => Trainer::new(initial()?, config.clone())?,
        };
        trainer.reconfigure(config)?;
        let mut log = Log::open(&self.checkpoint.with_extension("csv"), trainer.steps_done())?;
        if resumes {
            println!(
                "{}: resuming from step {} of {}",
                self.name,
                trainer.steps_done(),
                self.checkpoint.display()
            );
        }
        let mut data = trainer.loader(set, LoaderOptions::default())?;
        if !self.steps(&mut trainer, &mut data, &mut log)? {
            println!("\nInterrupted. Run the same command to resume from {}.", self.checkpoint.display());
            return Ok(None);
        }
        Ok(Some(Trained { model: trainer.ema().clone(), losses: log.losses, seconds: log.seconds }))
    }

    /// Runs the remaining steps; returns false if the user interrupted them.
    fn steps<B: Backend>(
        &self,
        trainer: &mut Trainer<B>,
        data: &mut DataLoader<SampleDraws>,
        log: &mut Log,
    ) -> Result<bool, Box<dyn Error>> {
        let total = trainer.config().lr.total;
        let images = trainer.config().batch * trainer.model().config().groups();
        let mut bar = TrainingBar::new(self.name, total, trainer.steps_done(), total.div_ceil(10));
        while trainer.steps_done() < total {
            let started = Instant::now();
            let report = trainer.step(data)?;
            log.seconds += started.elapsed().as_secs_f64();
            log.losses.push(report.loss as f32);
            let StepReport { loss, lr, grad_norm, .. } = report;
            bar.step(StepProgress { loss, lr, grad_norm, images });
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

/// Loss log beside the checkpoint, so that the curve of a resumed run is complete.
struct Log {
    path: PathBuf,
    losses: Vec<f32>,
    seconds: f64,
}

impl Log {
    /// Opens the log of a run after `done` steps; losses missing from the file stay missing.
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
        Ok(write_bytes_atomic(&self.path, text.as_bytes())?)
    }
}
