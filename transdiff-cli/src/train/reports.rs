//! Reports of a run: the log, TensorBoard's events, the plot of the losses, and sample grids.

use std::path::Path;

use transdiff::checkpoint::write_bytes_atomic;
use transdiff::datasets::pictures::PictureDataset;
use transdiff_run::{EventFile, LossPlot, Point, Report, RunDirectory, RunLog};

use crate::failure::Result;

/// Broken pictures that a message names.
const NAMED: usize = 3;

/// Everything that a run reports to its directory.
pub struct Reports {
    log: RunLog,
    events: EventFile,
    plot: std::path::PathBuf,
    interval: Sums,
    /// Seconds of training until the last report, those of earlier processes included.
    seconds: f64,
}

/// Sums over the steps since the last report.
#[derive(Default)]
struct Sums {
    steps: u32,
    loss: f64,
    images: usize,
    seconds: f64,
}

/// Measures of the steps since the last report.
pub struct Interval {
    /// Mean loss.
    pub loss: f64,
    pub images_per_second: f64,
    /// Seconds of training until now.
    pub seconds: f64,
}

impl Reports {
    /// Reports of a run that goes on after `step` steps.
    pub fn open(directory: &RunDirectory, step: u64) -> Result<Self> {
        let log = RunLog::open(directory.log(), step)?;
        let seconds = log.reports().last().map_or(0.0, |report| report.seconds);
        let events = EventFile::create(&directory.events(), step)?;
        Ok(Self { log, events, plot: directory.loss_plot(), interval: Sums::default(), seconds })
    }

    /// Forgets the reports after `step` steps.
    pub fn rewind(&mut self, directory: &RunDirectory, step: u64) -> Result<()> {
        *self = Self::open(directory, step)?;
        Ok(())
    }

    /// Counts a step.
    pub fn count(&mut self, loss: f64, images: usize, seconds: f64) {
        self.interval.steps += 1;
        self.interval.loss += loss;
        self.interval.images += images;
        self.interval.seconds += seconds;
    }

    /// Measures of the steps since the last call.
    pub fn take(&mut self) -> Interval {
        let Sums { steps, loss, images, seconds } = std::mem::take(&mut self.interval);
        self.seconds += seconds;
        let images_per_second = images as f64 / seconds.max(1e-9);
        Interval { loss: loss / f64::from(steps.max(1)), images_per_second, seconds: self.seconds }
    }

    /// Adds a report everywhere.
    pub fn add(&mut self, report: Report) -> Result<()> {
        let scalars = [
            ("loss/training", Some(report.loss)),
            ("loss/validation", report.val_loss),
            ("lr", Some(report.lr)),
            ("grad_norm", Some(report.grad_norm)),
            ("images_per_second", Some(report.images_per_second)),
            ("ranks/slowest", report.ranks.as_ref().map(|ranks| ranks.slowest)),
            ("ranks/fastest", report.ranks.as_ref().map(|ranks| ranks.fastest)),
            ("ranks/waited", report.ranks.as_ref().map(|ranks| ranks.waited)),
        ];
        for (tag, value) in scalars {
            value.map_or(Ok(()), |value| self.events.scalar(report.step, tag, value))?;
        }
        self.log.append(report)?;
        let mut plot = LossPlot::default();
        let points = |loss: fn(&Report) -> Option<f64>| {
            let reports = self.log.reports().iter();
            reports.filter_map(move |report| Some(Point { step: report.step, loss: loss(report)? }))
        };
        plot.add_phase("training", points(|report| Some(report.loss)), points(|report| report.val_loss));
        Ok(plot.write(&self.plot)?)
    }

    /// Writes the grid of samples after `step` steps.
    pub fn image(&mut self, path: &Path, step: u64, png: &[u8]) -> Result<()> {
        write_bytes_atomic(path, png)?;
        Ok(self.events.image(step, "samples", png)?)
    }
}

/// Number of broken pictures of this rank that were reported.
#[derive(Default)]
pub struct BrokenPictures(usize);

impl BrokenPictures {
    /// Message about broken pictures, if some have been found since the last call.
    pub fn message(&mut self, pictures: &PictureDataset) -> Option<String> {
        let count = pictures.broken_count();
        if count == self.0 {
            return None;
        }
        self.0 = count;
        let broken = pictures.broken();
        let named: Vec<&str> = broken.iter().take(NAMED).map(|picture| picture.message.as_str()).collect();
        let more = if count > NAMED { "; …" } else { "" };
        let are = if count == 1 { "picture is" } else { "pictures are" };
        Some(format!("{count} broken {are} skipped: {}{more}", named.join("; ")))
    }
}
