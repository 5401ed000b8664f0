//! The progress bar of training.

use std::io::Write as _;
use std::time::Instant;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Decay of the moving average of the loss shown: the raw loss varies too much to be read.
const SMOOTHING: f64 = 0.98;

/// Measures of a training step.
#[derive(Clone, Copy, Debug)]
pub struct StepProgress {
    /// The loss.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Number of images.
    pub images: usize,
}

/// Progress bar with loss, learning rate, gradient norm, images per second and time left; without a terminal, a line per
/// interval.
pub struct TrainingBar {
    bar: ProgressBar,
    name: String,
    started: Instant,
    interval: u64,
    images: u64,
    loss: Option<f64>,
}

impl TrainingBar {
    /// A bar of `steps` steps, of which `done` are already done; without a terminal, a line after every multiple of
    /// `interval` steps, and after the last.
    pub fn new(name: &str, steps: u64, done: u64, interval: u64) -> Self {
        let style = "{prefix:>14} {bar:24} {pos}/{len}  {msg}  {eta} left";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps).with_style(style).with_prefix(name.to_owned()).with_position(done);
        bar.reset_eta();
        let (name, started) = (name.to_owned(), Instant::now());
        Self { bar, name, started, interval: interval.max(1), images: 0, loss: None }
    }

    /// Counts a step.
    pub fn step(&mut self, step: StepProgress) {
        let smoothed = self.loss.map_or(step.loss, |past| past * SMOOTHING + step.loss * (1.0 - SMOOTHING));
        self.loss = Some(smoothed);
        self.images += step.images as u64;
        self.bar.inc(1);
        let rate = self.images as f64 / self.started.elapsed().as_secs_f64();
        let StepProgress { lr, grad_norm, .. } = step;
        let message = format!("loss {smoothed:.4}  lr {lr:.2e}  gradient {grad_norm:.3}  {rate:.0} images/s");
        let (done, steps) = (self.bar.position(), self.bar.length().unwrap_or(0));
        if self.bar.is_hidden() && (done.is_multiple_of(self.interval) || done == steps) {
            let left = HumanDuration(self.bar.eta());
            self.print(&format!("{:>14} {done}/{steps}  {message}  {left:#} left", self.name));
        }
        self.bar.set_message(message);
    }

    /// Goes back to `done` steps.
    pub fn rewind(&mut self, done: u64) {
        self.bar.set_position(done);
        self.loss = None;
    }

    /// Prints a line to stderr, above the bar. A failure to print it is ignored: there is no other place to report it.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
    }

    /// Ends the bar and leaves its last state on the screen.
    pub fn finish(self) {
        self.bar.abandon();
    }
}
