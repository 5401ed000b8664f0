//! The progress bar of training.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// Decay of the moving average of the loss shown: the raw loss varies too much to be read.
const SMOOTHING: f32 = 0.98;

/// Progress bar with loss, images per second and time left; without a terminal, a line after every tenth of the steps.
pub struct TrainingBar {
    bar: ProgressBar,
    name: &'static str,
    started: Instant,
    /// Steps done by earlier runs.
    resumed_at: u64,
    loss: Option<f32>,
}

impl TrainingBar {
    /// A bar of `steps` steps, of which `done` are already done.
    pub fn new(name: &'static str, steps: u64, done: u64) -> Self {
        let style = "{prefix:>14} {bar:32} {pos}/{len}  {msg}  {eta} left";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps).with_style(style).with_prefix(name).with_position(done);
        bar.reset_eta();
        Self { bar, name, started: Instant::now(), resumed_at: done, loss: None }
    }

    /// Counts a step with its loss and number of images.
    pub fn step(&mut self, loss: f32, images: usize) {
        let smoothed = self.loss.map_or(loss, |past| past * SMOOTHING + loss * (1.0 - SMOOTHING));
        self.loss = Some(smoothed);
        self.bar.inc(1);
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.bar.position() - self.resumed_at) as f64 * images as f64 / seconds;
        let message = format!("loss {smoothed:.4}  {rate:.0} images/s");
        if self.bar.is_hidden() {
            self.print_tenth(&message);
        }
        self.bar.set_message(message);
    }

    /// Ends the bar and leaves its last state on the screen.
    pub fn finish(self) {
        self.bar.abandon();
    }

    fn print_tenth(&self, message: &str) {
        let (done, steps) = (self.bar.position(), self.bar.length().unwrap_or(1));
        if done * 10 / steps != (done - 1) * 10 / steps {
            let left = self.bar.eta().as_secs();
            eprintln!("{:>14} {done}/{steps}  {message}  {left} s left", self.name);
        }
    }
}
