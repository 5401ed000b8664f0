//! Progress display of a cache.

use std::ops::ControlFlow;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use transdiff::CancellationToken;
use transdiff::datasets::cache::FillProgress;

use crate::output::print_to_stderr;

/// Runs `work` with an observer that shows the progress, and cancels once `token` is cancelled.
pub fn with_progress<T>(
    token: &CancellationToken,
    work: impl FnOnce(&mut dyn FnMut(&FillProgress) -> ControlFlow<()>) -> T,
) -> T {
    let mut bar = None;
    let done = work(&mut |progress| {
        bar.get_or_insert_with(|| CacheBar::new(progress)).update(progress);
        match token.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    done
}

/// Progress bar with pictures, pictures per second and time left. Without a terminal it prints a line per 10 %.
struct CacheBar {
    bar: ProgressBar,
    resumed_at: usize,
    started: Instant,
}

impl CacheBar {
    /// Bar of a cache whose first batch is done.
    fn new(first: &FillProgress) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}  {eta} left");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(first.total as u64).with_style(style).with_position(first.done as u64);
        bar.reset_eta();
        Self { bar, resumed_at: first.done, started: Instant::now() }
    }

    fn update(&mut self, progress: &FillProgress) {
        let FillProgress { done, total, broken } = *progress;
        let rate = (done - self.resumed_at) as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let broken = if broken == 0 { String::new() } else { format!("  {broken} broken") };
        let message = format!("{done}/{total} pictures  {rate:.0} pictures/s{broken}");
        let tenth = |position: usize| position * 10 / total.max(1);
        let before = self.bar.position() as usize;
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && (tenth(before) != tenth(done)) {
            print_to_stderr(&format!("{:>3} %  {message}", tenth(done) * 10));
        }
        self.bar.set_message(message);
    }

    /// Removes the bar from the screen.
    fn finish(self) {
        self.bar.finish_and_clear();
    }
}
