//! The part of rank 0: progress on the terminal, and everything in the run's directory.

use std::path::PathBuf;

use transdiff::Backend;
use transdiff::models::Trainable;
use transdiff::train::{Snapshot, StepReport, Trainer};
use transdiff_run::settings::RunConfig;
use transdiff_run::{Report, RunDirectory};
use transdiff_terminal::{StepProgress, TrainingBar};

use super::checkpoints::CheckpointWriter;
use super::reports::{Interval, Reports};
use crate::failure::Result;

/// Reports, progress and checkpoints of a run.
pub struct MainRank<'a> {
    directory: &'a RunDirectory,
    reports: Reports,
    bar: TrainingBar,
    writer: CheckpointWriter,
    /// Newest complete checkpoint.
    last: Option<PathBuf>,
}

impl<'a> MainRank<'a> {
    /// Opens the files of a run that begins, or goes on, with `trainer`, and writes its settings: now that all is open, the
    /// directory of a run that could not begin can be given again.
    pub fn open<B: Backend, M: Trainable<B>>(
        directory: &'a RunDirectory,
        settings: &RunConfig,
        trainer: &Trainer<B, M>,
    ) -> Result<Self> {
        let (steps, done) = (trainer.config().lr.total, trainer.steps_done());
        let reports = Reports::open(directory, done)?;
        settings.save(&directory.config())?;
        let bar = TrainingBar::new("training", steps, done, settings.train.report_every);
        let writer = CheckpointWriter::new(&settings.train);
        let last = directory.checkpoints()?.pop().map(|file| file.path);
        Ok(Self { directory, reports, bar, writer, last })
    }

    pub fn directory(&self) -> &RunDirectory {
        self.directory
    }

    /// Removes older checkpoints.
    pub fn prune(&self) -> Result<()> {
        self.writer.prune(self.directory)
    }

    /// Counts a step of all ranks.
    pub fn count(&mut self, report: &StepReport, images: usize, seconds: f64) {
        let &StepReport { loss, lr, grad_norm, .. } = report;
        self.reports.count(loss, images, seconds);
        self.bar.step(StepProgress { loss, lr, grad_norm, images });
    }

    /// Measures of the steps since the last call.
    pub fn take_interval(&mut self) -> Interval {
        self.reports.take()
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        self.bar.print(line);
    }

    /// Adds a report everywhere.
    pub fn report(&mut self, report: Report) -> Result<()> {
        if let Some(loss) = report.val_loss {
            self.bar.print(&format!("step {}: validation loss {loss:.4}", report.step));
        }
        if let Some(ranks) = &report.ranks {
            self.bar.print(&format!("step {}: {ranks}", report.step));
        }
        self.reports.add(report)
    }

    /// Writes the grid of samples after `step` steps.
    pub fn image(&mut self, step: u64, png: &[u8]) -> Result<()> {
        self.reports.image(&self.directory.samples(step), step, png)
    }

    /// Begins to write the state after `step` steps.
    pub fn checkpoint<B: Backend>(&mut self, snapshot: Snapshot<B>, step: u64) -> Result<()> {
        let last = self.writer.start(self.directory, snapshot, step, &self.bar)?;
        self.last = last.or(self.last.take());
        Ok(())
    }

    /// Notes the checkpoint that was being written, if it is complete now.
    pub fn poll(&mut self) -> Result<()> {
        let last = self.writer.poll(self.directory, &self.bar)?;
        self.last = last.or(self.last.take());
        Ok(())
    }

    /// The newest checkpoint, once it is complete.
    pub fn last_checkpoint(&mut self) -> Result<Option<PathBuf>> {
        let last = self.writer.wait(self.directory, &self.bar)?;
        self.last = last.or(self.last.take());
        Ok(self.last.clone())
    }

    /// Goes back to `step` steps, for the reason that `message` gives.
    pub fn rewind(&mut self, step: u64, message: &str) -> Result<()> {
        self.reports.rewind(self.directory, step)?;
        self.bar.rewind(step);
        self.bar.print(message);
        Ok(())
    }

    /// Ends the bar, and completes the checkpoint that is being written.
    pub fn finish(self) -> Result<()> {
        self.bar.finish();
        self.writer.finish(self.directory)
    }
}
