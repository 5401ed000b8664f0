//! Progress display of measuring.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::print_to_stderr;

/// Progress bar with pictures, and pictures per second. Without a terminal it prints a line per 10 %, or per 1000 pictures if
/// their number is not known.
pub struct MeasuringBar {
    bar: ProgressBar,
    total: Option<usize>,
    done: usize,
    started: Instant,
}

impl MeasuringBar {
    pub fn new(total: Option<usize>) -> Self {
        let bar = total.map_or_else(ProgressBar::new_spinner, |total| ProgressBar::new(total as u64));
        let template = match total {
            Some(_) => "{bar:32} {percent:>3} %  {msg}  {eta} left",
            None => "{spinner}  {msg}",
        };
        let style = ProgressStyle::with_template(template);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, total, done: 0, started: Instant::now() }
    }

    /// Adds `count` pictures.
    pub fn add(&mut self, count: usize) {
        let step = |done: usize| match self.total {
            Some(total) => done * 10 / total.max(1),
            None => done / 1000,
        };
        let (before, done) = (self.done, self.done + count);
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let of = self.total.map_or(String::new(), |total| format!("/{total}"));
        let message = format!("{done}{of} pictures  {rate:.1} pictures/s");
        if self.bar.is_hidden() && step(before) != step(done) {
            print_to_stderr(&message);
        }
        self.bar.set_message(message);
        self.bar.set_position(done as u64);
        self.done = done;
    }

    /// Removes the bar from the screen.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
