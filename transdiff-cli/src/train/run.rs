//! The loop of a training run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use transdiff::data::{DataLoader, LoaderOptions, Shuffle};
use transdiff::distributed::Collectives;
use transdiff::models::Codec;
use transdiff::models::transdiff::{Distillation, SampleDraws};
use transdiff::train::{StepReport, Trainer};
use transdiff::{Backend, DType, DistributedTask, Error, TransDiff};
use transdiff_run::settings::{self, OnNonFinite};
use transdiff_run::{RankTimes, Report};
use transdiff_terminal::{StopReason, StopSignals};

use super::beginning::Beginning;
use super::main_rank::MainRank;
use super::plan::Plan;
use super::reports::BrokenPictures;
use super::run_model::RunModel;
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

/// A training run on a device.
pub struct Run<'a> {
    pub plan: Plan<'a>,
    pub signals: StopSignals,
    /// Number of threads that may read data.
    pub threads: usize,
}

impl DistributedTask for Run<'_> {
    type Output = Result<()>;

    fn run<B: Backend>(
        self,
        backend: B,
        collectives: Arc<dyn Collectives<B>>,
    ) -> transdiff::Result<Result<()>> {
        Ok(match self.plan.settings.distill.teacher {
            None => self.train::<B, TransDiff<B>>(&backend, collectives),
            Some(_) => self.train::<B, Distillation<B>>(&backend, collectives),
        })
    }
}

impl Run<'_> {
    fn train<B: Backend, M: RunModel<B>>(
        &self,
        backend: &B,
        collectives: Arc<dyn Collectives<B>>,
    ) -> Result<()> {
        let open = || -> Result<Option<Arc<dyn Codec<B>>>> {
            Ok(match &self.plan.data.codec {
                Some(codec) => Some(codec.load(backend, DType::F32)?.into()),
                None => None,
            })
        };
        let codec = self.plan.job.each(open)?;
        let beginning = Beginning { plan: &self.plan, backend, codec: codec.clone(), collectives };
        let trainer = beginning.trainer::<M>()?;
        let open = || {
            let data = trainer.loader(self.plan.data.set.clone(), self.loading())?;
            let held_out = match &self.plan.data.held_out {
                Some(set) => {
                    let options = LoaderOptions { shuffle: Shuffle::None, ..LoaderOptions::default() };
                    Some(trainer.loader(set.clone(), options)?)
                }
                None => None,
            };
            let main = match &self.plan.directory {
                Some(directory) => Some(MainRank::open(directory, &self.plan.settings, &trainer)?),
                None => None,
            };
            Ok((data, held_out, main))
        };
        let (data, held_out, main) = self.plan.job.each(open)?;
        let (steps, done) = (self.plan.train.lr.total, trainer.steps_done());
        if done >= steps {
            // A process that was killed after its last checkpoint has not written the model, or not removed older ones.
            let snapshot = trainer.snapshot()?;
            if let Some(main) = main {
                snapshot.write_model(main.directory().model())?;
                main.prune()?;
            }
            print_to_stderr(&format!("all {steps} steps are done; --steps sets another number"));
            return Ok(());
        }
        let broken = BrokenPictures::default();
        let mut progress = Progress {
            run: self,
            beginning,
            codec,
            data,
            held_out,
            main,
            trainer,
            times: Times::default(),
            broken,
            rollbacks: 0,
        };
        let ended = progress.steps();
        // A checkpoint that is being written is completed also where the run ends with an error.
        progress.main.map_or(Ok(()), MainRank::finish).and(ended)
    }

    /// Options of the loader of training samples.
    fn loading(&self) -> LoaderOptions {
        let threads = match self.plan.data.are_images {
            true => self.threads.min(PICTURE_THREADS),
            false => 1,
        };
        let shuffle = match self.plan.settings.data.shuffle {
            settings::Shuffle::Samples => Shuffle::Items,
            settings::Shuffle::Shards => Shuffle::Shards { window: WINDOW },
        };
        let groups = self.plan.data.groups.clone();
        LoaderOptions {
            threads,
            ahead: 2 * self.plan.train.batch,
            shuffle,
            groups,
            ..LoaderOptions::default()
        }
    }
}

/// Times of the ranks since the last report.
#[derive(Default)]
struct Times {
    /// Steps, and seconds of work and of waiting per rank.
    steps: u32,
    ranks: Vec<[f64; 2]>,
}

/// State of a rank after a step, which all ranks exchange.
#[derive(Serialize, Deserialize)]
struct Pulse {
    /// Seconds of the step, and those of them that the rank has waited.
    seconds: f64,
    waited: f64,
    /// A signal of the user, or of the system, has asked this rank to stop.
    interrupted: bool,
    requeued: bool,
}

/// A run while it trains.
struct Progress<'a, B: Backend, M: RunModel<B>> {
    run: &'a Run<'a>,
    beginning: Beginning<'a, B>,
    codec: Option<Arc<dyn Codec<B>>>,
    data: DataLoader<SampleDraws>,
    held_out: Option<DataLoader<SampleDraws>>,
    /// The reports and the files, on rank 0.
    main: Option<MainRank<'a>>,
    trainer: Trainer<B, M>,
    times: Times,
    broken: BrokenPictures,
    rollbacks: u32,
}

impl<B: Backend, M: RunModel<B>> Progress<'_, B, M> {
    fn steps(&mut self) -> Result<()> {
        let (steps, settings) = (self.run.plan.train.lr.total, &self.run.plan.settings.train);
        while self.trainer.steps_done() < steps {
            let (started, waited) = (Instant::now(), self.trainer.seconds_waited());
            let report = match self.trainer.step(&mut self.data) {
                Ok(report) => report,
                Err(error @ (Error::NonFinite { .. } | Error::NonFiniteGradient { .. })) => {
                    self.not_finite(&error)?;
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            };
            let waited = self.trainer.seconds_waited() - waited;
            let reason = self.count(&report, started.elapsed().as_secs_f64(), waited)?;
            let done = self.trainer.steps_done();
            let every = |interval: u64| interval > 0 && done.is_multiple_of(interval);
            let stop = reason.filter(|_| done < steps);
            let last = done == steps || stop.is_some();
            if last || every(settings.report_every) {
                self.report(&report)?;
            }
            if (done == steps && settings.sample_every > 0) || every(settings.sample_every) {
                self.samples()?;
            }
            if last || every(settings.checkpoint_every) {
                self.checkpoint()?;
            } else if let Some(main) = &mut self.main {
                main.poll()?;
            }
            if let Some(reason) = stop {
                return Err(Failure::Stopped(reason, format!("after step {done} of {steps}")));
            }
        }
        Ok(())
    }

    /// The error of a step, after a checkpoint if it is one of the data or of a rank, which leaves the run as it was.
    fn failed(&mut self, error: Error) -> Failure {
        let of_data = match &error {
            Error::Format { .. } | Error::Io { .. } => true,
            // Of another rank there is the message alone, which names the file.
            Error::Rank { message, .. } => {
                self.run.plan.settings.data.path.as_ref().is_some_and(|path| message.contains(path.as_str()))
            }
            _ => false,
        };
        let unchanged = of_data || matches!(error, Error::Rank { .. });
        let step = self.trainer.steps_done();
        let mut failure = Failure::from(error);
        if of_data && self.run.plan.data.are_images {
            failure = failure.with_completed("data.on_broken = \"skip\" goes on without broken pictures");
        }
        if !unchanged || step == 0 {
            return failure;
        }
        match self.checkpoint() {
            Ok(()) => failure.with_completed(&format!("the state after step {step} is saved")),
            // The others may wait for the part of this rank.
            Err(error) if self.run.plan.job.size() > 1 => Failure::Message(format!("{failure}; {error}")),
            Err(_) => failure,
        }
    }

    /// Counts a step. Returns the reason to stop, if any rank has one.
    fn count(&mut self, report: &StepReport, seconds: f64, waited: f64) -> Result<Option<StopReason>> {
        if let Some(main) = &mut self.main {
            let images = self.run.plan.samples_per_step() as usize * self.run.plan.settings.model.groups;
            main.count(report, images, seconds);
        }
        let reason = self.run.signals.reason();
        if self.run.plan.job.size() == 1 {
            return Ok(reason);
        }
        let interrupted = reason == Some(StopReason::Interrupt);
        let requeued = reason == Some(StopReason::Requeue);
        let pulses = self.run.plan.job.agree(Ok(Pulse { seconds, waited, interrupted, requeued }))?;
        self.times.steps += 1;
        self.times.ranks.resize(pulses.len(), [0.0; 2]);
        for (times, pulse) in self.times.ranks.iter_mut().zip(&pulses) {
            times[0] += pulse.seconds - pulse.waited;
            times[1] += pulse.waited;
        }
        Ok(match () {
            () if pulses.iter().any(|pulse| pulse.interrupted) => Some(StopReason::Interrupt),
            () if pulses.iter().any(|pulse| pulse.requeued) => Some(StopReason::Requeue),
            () => None,
        })
    }

    /// Times of the ranks since the last report, if there are several.
    fn rank_times(&mut self) -> Option<RankTimes> {
        let steps = f64::from(std::mem::take(&mut self.times.steps));
        let ranks = std::mem::take(&mut self.times.ranks);
        let work = ranks.iter().map(|[work, _]| work / steps);
        let fastest = work.clone().min_by(f64::total_cmp)?;
        let slowest = work.max_by(f64::total_cmp)?;
        let waited = ranks.iter().map(|[_, waited]| waited / steps).sum::<f64>() / ranks.len() as f64;
        Some(RankTimes { ranks: ranks.len(), fastest, slowest, waited })
    }

    fn report(&mut self, report: &StepReport) -> Result<()> {
        let val_loss = match &mut self.held_out {
            Some(data) => {
                let count = (data.samples_per_epoch() as usize).min(VALIDATION_SAMPLES);
                Some(self.trainer.evaluate(data, count))
            }
            None => None,
        };
        let val_loss = val_loss.transpose().map_err(|error| self.failed(error))?;
        let ranks = self.rank_times();
        let pictures = self.run.plan.data.pictures.as_deref();
        let broken = pictures.and_then(|pictures| self.broken.message(pictures));
        let Some(main) = &mut self.main else {
            // To the log of this rank.
            broken.iter().for_each(|message| print_to_stderr(message));
            return Ok(());
        };
        broken.iter().for_each(|message| main.print(message));
        let interval = main.take_interval();
        main.report(Report {
            step: self.trainer.steps_done(),
            samples: self.trainer.samples_done(),
            loss: interval.loss,
            val_loss,
            lr: report.lr,
            grad_norm: report.grad_norm,
            images_per_second: interval.images_per_second,
            seconds: interval.seconds,
            ranks,
        })
    }

    fn samples(&mut self) -> Result<()> {
        let settings = &self.run.plan.settings.train;
        let grid = SampleGrid { steps: settings.sample_steps, guidance: settings.sample_guidance };
        let model = self.trainer.whole_ema()?;
        let Some(main) = &mut self.main else { return Ok(()) };
        match grid.draw(model.generator(), self.codec.as_deref())? {
            Some(png) => main.image(self.trainer.steps_done(), &png),
            None => Ok(()),
        }
    }

    /// Begins to write a checkpoint.
    fn checkpoint(&mut self) -> Result<()> {
        if let Some(main) = self.main.as_mut().filter(|_| self.run.plan.shard_optimizer) {
            // Rank 0 gathers the state in its memory, which has no room for two.
            main.last_checkpoint()?;
        }
        let snapshot = self.trainer.snapshot()?;
        if let Some(main) = &mut self.main {
            main.checkpoint(snapshot, self.trainer.steps_done())?;
        }
        self.rollbacks = 0;
        Ok(())
    }

    /// Ends the run, or goes back to the last checkpoint and skips the samples of the step. All ranks find the same.
    fn not_finite(&mut self, error: &Error) -> Result<()> {
        let step = self.trainer.steps_done() + 1;
        let main = &mut self.main;
        let last: Option<PathBuf> =
            self.run.plan.job.made_by_main(|| main.as_mut().map_or(Ok(None), MainRank::last_checkpoint))?;
        let checkpoint = match last {
            Some(path) => format!("the last checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        if self.run.plan.settings.train.on_nonfinite == OnNonFinite::Stop {
            let message = format!(
                "step {step}: {error}; {checkpoint}. A lower train.lr, a longer train.warmup, or \
                 train.on_nonfinite = \"rollback\" may help"
            );
            return Err(self.run.plan.job.known_to_all(message));
        }
        self.rollbacks += 1;
        if self.rollbacks > MAX_ROLLBACKS {
            let message =
                format!("step {step}: {error}; {MAX_ROLLBACKS} rollbacks did not help; {checkpoint}");
            return Err(self.run.plan.job.known_to_all(message));
        }
        let next = self.trainer.samples_done() + self.run.plan.samples_per_step();
        self.trainer = self.beginning.trainer()?;
        self.trainer.skip_to(next)?;
        self.times = Times::default();
        let back = self.trainer.steps_done();
        let message = format!("step {step}: {error}; back to step {back}, the step's samples are skipped");
        self.main.as_mut().map_or(Ok(()), |main| main.rewind(back, &message))
    }
}
