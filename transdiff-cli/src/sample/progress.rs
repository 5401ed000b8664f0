//! Progress display of generation.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::print_to_stderr;

/// Units of the bar per image.
const UNITS: f64 = 1000.0;

/// Progress bar with images, images per second and time left. Without a terminal it prints a line per 10 %.
pub struct GenerationBar {
    bar: ProgressBar,
    images: usize,
    /// Images that earlier runs completed.
    resumed_at: usize,
    started: Instant,
}

impl GenerationBar {
    /// Creates a bar for `images` images, of which `done` are already complete.
    pub fn new(images: usize, done: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}  {eta} left");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let units = |images: usize| (images as f64 * UNITS) as u64;
        let bar = ProgressBar::new(units(images)).with_style(style).with_position(units(done));
        bar.reset_eta();
        Self { bar, images, resumed_at: done, started: Instant::now() }
    }

    /// Sets the number of images done, fractions and those of earlier runs included.
    pub fn update(&mut self, done: f64) {
        let rate = (done - self.resumed_at as f64) / self.started.elapsed().as_secs_f64();
        let message = format!("{done:.1}/{} images  {rate:.3} images/s", self.images);
        let (before, now) = (self.bar.position(), (done * UNITS) as u64);
        self.bar.set_position(now);
        let tenth = |position: u64| position * 10 / self.bar.length().unwrap_or(1).max(1);
        if self.bar.is_hidden() && tenth(before) != tenth(now) {
            print_to_stderr(&format!("{:>3} %  {message}", tenth(now) * 10));
        }
        self.bar.set_message(message);
    }

    /// Removes the bar from the screen.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
