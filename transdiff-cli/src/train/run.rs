//! The loop of a training run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use transdiff::checkpoint::WeightFile;
use transdiff::data::{DataLoader, LoaderOptions, Shuffle};
use transdiff::models::transdiff::{SampleDraws, TransDiffConfig};
use transdiff::models::{Codec, LoadHints, Model, WeightSet};
use transdiff::train::{StepReport, TrainConfig, Trainer};
use transdiff::{Backend, DType, DeviceTask, Error, TransDiff};
use transdiff_run::settings::{self, InitWeights, OnNonFinite, RunConfig};
use transdiff_run::{Report, RunDirectory};
use transdiff_terminal::{StepProgress, StopSignals, TrainingBar};

use super::checkpoints::CheckpointWriter;
use super::data::TrainingData;
use super::reports::Reports;
use super::samples::SampleGrid;
use crate::failure::{Failure, Result};
use crate::output::print_to_stderr;

/// Shards that the order by shards reads from at a time.
const WINDOW: usize = 8;
/// Threads that read pictures, and those that read latents, which are few bytes.
const PICTURE_THREADS: usize = 16;
/// Samples of the validation loss at most.
const VALIDATION_SAMPLES: usize = 512;
/// Rollbacks without a checkpoint between them, after which the run ends.
const MAX_ROLLBACKS: u32 = 10;

/// A training run that is ready to begin or to go on.
pub struct Run {
    pub settings: RunConfig,
    pub data: TrainingData,
    pub directory: RunDirectory,
    /// Settings of the trainer.
    pub train: TrainConfig,
    pub signals: StopSignals,
    /// Number of threads that may read data.
    pub threads: usize,
}

impl DeviceTask for Run {
    type Output = Result<()>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Result<()>> {
        Ok(self.train(&backend))
    }
}

impl Run {
    fn train<B: Backend>(&self, backend: &B) -> Result<()> {
        let codec: Option<Arc<dyn Codec<B>>> = match &self.data.codec {
            Some(codec) => Some(codec.load(backend, DType::F32)?.into()),
            None => None,
        };
        let trainer = self.trainer(backend, codec.as_ref())?;
        let reports = Reports::open(&self.directory, trainer.steps_done())?;
        let data = trainer.loader(self.data.set.clone(), self.loading())?;
        let held_out = match &self.data.held_out {
            Some(set) => {
                let options = LoaderOptions { shuffle: Shuffle::None, ..LoaderOptions::default() };
                Some(trainer.loader(set.clone(), options)?)
            }
            None => None,
        };
        // Now that all is open: the directory of a run that could not begin can be given again.
        self.settings.save(&self.directory.config())?;
        let (steps, done) = (self.train.lr.total, trainer.steps_done());
        if done >= steps {
            // A process that was killed after its last checkpoint has not written the model, or not removed older ones.
            trainer.snapshot().write_model(self.directory.model())?;
            self.directory.prune(self.settings.train.keep_last, self.settings.train.keep_every)?;
            print_to_stderr(&format!("all {steps} steps are done; --steps sets another number"));
            return Ok(());
        }
        let bar = TrainingBar::new("training", steps, done, self.settings.train.report_every);
        let writer = CheckpointWriter::new(&self.settings.train);
        let last = self.directory.checkpoints()?.pop().map(|file| file.path);
        let mut progress =
            Progress { run: self, codec, data, held_out, reports, bar, writer, trainer, last, rollbacks: 0 };
        let ended = progress.steps();
        let Progress { bar, writer, .. } = progress;
        bar.finish();
        // A checkpoint that is being written is completed also where the run ends with an error.
        writer.finish(&self.directory).and(ended)
    }

    /// Options of the loader of training samples.
    fn loading(&self) -> LoaderOptions {
        let threads = match self.data.are_images {
            true => self.threads.min(PICTURE_THREADS),
            false => 1,
        };
        let shuffle = match self.settings.data.shuffle {
            settings::Shuffle::Samples => Shuffle::Items,
            settings::Shuffle::Shards => Shuffle::Shards { window: WINDOW },
        };
        LoaderOptions { threads, ahead: 2 * self.train.batch, shuffle, groups: self.data.groups.clone() }
    }

    /// The trainer: of the newest checkpoint, or of a new run.
    fn trainer<B: Backend>(&self, backend: &B, codec: Option<&Arc<dyn Codec<B>>>) -> Result<Trainer<B>> {
        let config = self.settings.transdiff_config()?;
        let resumed =
            self.directory.load_newest(|file| Trainer::<B>::resume(backend, &file.path), print_to_stderr)?;
        let mut trainer: Trainer<B> = match resumed {
            Some((file, mut trainer)) => {
                if trainer.model().config() != &config {
                    let path = file.path.display();
                    return Err(
                        format!("{path}: a checkpoint of a model of other sizes than config.toml").into()
                    );
                }
                trainer.reconfigure(self.train.clone())?;
                print_to_stderr(&format!("going on after step {}: {}", file.step, file.path.display()));
                trainer
            }
            // A model is written after a checkpoint: to begin anew would replace what can no longer be trained on.
            None if self.directory.model().exists() => {
                let path = self.directory.path().display();
                let message = format!(
                    "{path}: expected a checkpoint beside model.safetensors, got none; put one back, or begin a new run \
                     with --out and --init"
                );
                return Err(message.into());
            }
            None => self.new_trainer(backend, &config)?,
        };
        trainer = trainer.with_images(self.data.images.clone());
        Ok(match codec {
            Some(codec) if self.data.are_images => trainer.with_codec(Arc::clone(codec)),
            _ => trainer,
        })
    }

    fn new_trainer<B: Backend>(&self, backend: &B, config: &TransDiffConfig) -> Result<Trainer<B>> {
        let (seed, train) = (self.settings.train.seed, self.train.clone());
        let Some(path) = &self.settings.train.init else {
            return Ok(Trainer::new(TransDiff::new(backend, config, DType::F32, seed)?, train)?);
        };
        let file = WeightFile::open(path)?;
        let load = |set: Option<WeightSet>| -> Result<TransDiff<B>> {
            let hints = LoadHints { weights: set, ..LoadHints::default() };
            let (model, new) =
                TransDiff::from_file(backend, &file, DType::F32, &hints)?.initialise(config, seed)?;
            let which = set.map_or(String::new(), |set| format!(", {}", set.describe()));
            let kept = match new.is_empty() {
                true => "all weights taken over".to_owned(),
                false => format!("new tensors: {}", new.join(", ")),
            };
            print_to_stderr(&format!("{path}{which}: {kept}"));
            Ok(model)
        };
        Ok(match self.settings.train.init_weights {
            InitWeights::Ema => Trainer::new(load(None)?, train)?,
            InitWeights::Raw => Trainer::new(load(Some(WeightSet::Raw))?, train)?,
            InitWeights::Published => {
                Trainer::with_ema(load(Some(WeightSet::Raw))?, load(Some(WeightSet::Ema))?, train)?
            }
        })
    }
}

/// A run while it trains.
struct Progress<'a, B: Backend> {
    run: &'a Run,
    codec: Option<Arc<dyn Codec<B>>>,
    data: DataLoader<SampleDraws>,
    held_out: Option<DataLoader<SampleDraws>>,
    reports: Reports,
    bar: TrainingBar,
    writer: CheckpointWriter,
    trainer: Trainer<B>,
    /// Newest complete checkpoint.
    last: Option<PathBuf>,
    rollbacks: u32,
}

impl<B: Backend> Progress<'_, B> {
    fn steps(&mut self) -> Result<()> {
        let (steps, settings) = (self.run.train.lr.total, &self.run.settings.train);
        while self.trainer.steps_done() < steps {
            let started = Instant::now();
            let report = match self.trainer.step(&mut self.data) {
                Ok(report) => report,
                Err(error @ (Error::NonFinite { .. } | Error::NonFiniteGradient { .. })) => {
                    self.not_finite(&error)?;
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            };
            self.count(&report, started.elapsed().as_secs_f64());
            let done = self.trainer.steps_done();
            let every = |interval: u64| interval > 0 && done.is_multiple_of(interval);
            let stop = self.run.signals.reason().filter(|_| done < steps);
            let last = done == steps || stop.is_some();
            if last || every(settings.report_every) {
                self.report(&report)?;
            }
            if (done == steps && settings.sample_every > 0) || every(settings.sample_every) {
                self.samples()?;
            }
            if last || every(settings.checkpoint_every) {
                self.checkpoint()?;
            } else if let Some(path) = self.writer.poll(&self.run.directory, &self.bar)? {
                self.last = Some(path);
            }
            if let Some(reason) = stop {
                return Err(Failure::Stopped(reason, format!("after step {done} of {steps}")));
            }
        }
        Ok(())
    }

    /// The error of a step, after a checkpoint if it is one of the data, which leaves the run as it was.
    fn failed(&mut self, error: Error) -> Failure {
        let of_data = matches!(error, Error::Format { .. } | Error::Io { .. });
        let step = self.trainer.steps_done();
        let mut failure = Failure::from(error);
        if of_data && self.run.data.are_images {
            failure = failure.with_completed("data.on_broken = \"skip\" goes on without broken pictures");
        }
        match of_data && step > 0 && self.checkpoint().is_ok() {
            true => failure.with_completed(&format!("the state after step {step} is saved")),
            false => failure,
        }
    }

    fn count(&mut self, report: &StepReport, seconds: f64) {
        let train = &self.run.train;
        let images = train.batch * train.accumulate * self.run.settings.model.groups;
        self.reports.count(report.loss, images, seconds);
        let &StepReport { loss, lr, grad_norm, .. } = report;
        self.bar.step(StepProgress { loss, lr, grad_norm, images });
    }

    fn report(&mut self, report: &StepReport) -> Result<()> {
        let val_loss = match &mut self.held_out {
            Some(data) => {
                let count = (data.samples_per_epoch() as usize).min(VALIDATION_SAMPLES);
                Some(self.trainer.evaluate(data, count)?)
            }
            None => None,
        };
        let interval = self.reports.take();
        self.reports.add(Report {
            step: self.trainer.steps_done(),
            samples: self.trainer.samples_done(),
            loss: interval.loss,
            val_loss,
            lr: report.lr,
            grad_norm: report.grad_norm,
            images_per_second: interval.images_per_second,
            seconds: interval.seconds,
        })?;
        if let Some(loss) = val_loss {
            self.bar.print(&format!("step {}: validation loss {loss:.4}", self.trainer.steps_done()));
        }
        if let Some(pictures) = &self.run.data.pictures
            && let Some(message) = self.reports.new_broken(pictures)
        {
            self.bar.print(&message);
        }
        Ok(())
    }

    fn samples(&mut self) -> Result<()> {
        let settings = &self.run.settings.train;
        let grid = SampleGrid { steps: settings.sample_steps, guidance: settings.sample_guidance };
        if let Some(png) = grid.draw(self.trainer.ema(), self.codec.as_deref())? {
            let step = self.trainer.steps_done();
            self.reports.image(&self.run.directory.samples(step), step, &png)?;
        }
        Ok(())
    }

    /// Begins to write a checkpoint.
    fn checkpoint(&mut self) -> Result<()> {
        if let Some(path) = self.writer.start(&self.run.directory, &self.trainer, &self.bar)? {
            self.last = Some(path);
        }
        self.rollbacks = 0;
        Ok(())
    }

    /// Ends the run, or goes back to the last checkpoint and skips the samples of the step.
    fn not_finite(&mut self, error: &Error) -> Result<()> {
        let step = self.trainer.steps_done() + 1;
        if let Some(path) = self.writer.wait(&self.run.directory, &self.bar)? {
            self.last = Some(path);
        }
        let checkpoint = match &self.last {
            Some(path) => format!("the last checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        if self.run.settings.train.on_nonfinite == OnNonFinite::Stop {
            let message = format!(
                "step {step}: {error}; {checkpoint}. A lower train.lr, a longer train.warmup, or \
                 train.on_nonfinite = \"rollback\" may help"
            );
            return Err(message.into());
        }
        self.rollbacks += 1;
        if self.rollbacks > MAX_ROLLBACKS {
            let message =
                format!("step {step}: {error}; {MAX_ROLLBACKS} rollbacks did not help; {checkpoint}");
            return Err(message.into());
        }
        let train = &self.run.train;
        let next = self.trainer.samples_done() + train.batch as u64 * train.accumulate as u64;
        let trainer = self.run.trainer(self.trainer.model().backend(), self.codec.as_ref())?;
        self.trainer = trainer;
        self.trainer.skip_to(next)?;
        let back = self.trainer.steps_done();
        self.reports.rewind(&self.run.directory, back)?;
        self.bar.rewind(back);
        self.bar.print(&format!("step {step}: {error}; back to step {back}, the step's samples are skipped"));
        Ok(())
    }
}
