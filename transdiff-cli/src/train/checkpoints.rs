//! Checkpoints, written by another thread while training goes on.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Instant;

use transdiff::Backend;
use transdiff::train::Snapshot;
use transdiff_run::RunDirectory;
use transdiff_run::settings::TrainSettings;
use transdiff_terminal::{TrainingBar, bytes};

use crate::failure::{Failure, Result};

/// Writer of checkpoints, and of the model's file beside them. One is written at a time.
pub struct CheckpointWriter {
    running: Option<JoinHandle<transdiff::Result<Written>>>,
    keep_last: usize,
    keep_every: u64,
}

/// A complete checkpoint.
struct Written {
    path: PathBuf,
    size: u64,
    seconds: f64,
}

impl CheckpointWriter {
    pub fn new(settings: &TrainSettings) -> Self {
        Self { running: None, keep_last: settings.keep_last, keep_every: settings.keep_every }
    }

    /// Begins to write the state after `step` steps, after the checkpoint that is being written. Returns the path of that one.
    pub fn start<B: Backend>(
        &mut self,
        directory: &RunDirectory,
        snapshot: Snapshot<B>,
        step: u64,
        bar: &TrainingBar,
    ) -> Result<Option<PathBuf>> {
        let last = self.wait(directory, bar)?;
        // Weights, their EMA and two moments, and the EMA once more in the model's file.
        directory.check_free_space(snapshot.bytes() + snapshot.bytes() / 4)?;
        let (path, model) = (directory.checkpoint(step), directory.model());
        let write = move || {
            let started = Instant::now();
            snapshot.write(&path)?;
            snapshot.write_model(&model)?;
            Ok(Written { path, size: snapshot.bytes(), seconds: started.elapsed().as_secs_f64() })
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        self.running = Some(thread.map_err(|e| format!("cannot start a thread: {e}"))?);
        Ok(last)
    }

    /// Path of the checkpoint that was being written, if it is complete now.
    pub fn poll(&mut self, directory: &RunDirectory, bar: &TrainingBar) -> Result<Option<PathBuf>> {
        match &self.running {
            Some(thread) if thread.is_finished() => self.wait(directory, bar),
            _ => Ok(None),
        }
    }

    /// Waits for the checkpoint that is being written, if there is one, and removes older ones.
    pub fn wait(&mut self, directory: &RunDirectory, bar: &TrainingBar) -> Result<Option<PathBuf>> {
        let Some(written) = self.join()? else { return Ok(None) };
        bar.print(&written.to_string());
        self.prune(directory)?;
        Ok(Some(written.path))
    }

    /// Removes older checkpoints.
    pub fn prune(&self, directory: &RunDirectory) -> Result<()> {
        Ok(directory.prune(self.keep_last, self.keep_every)?)
    }

    /// As [`wait`](Self::wait), at the end.
    pub fn finish(mut self, directory: &RunDirectory) -> Result<()> {
        if let Some(written) = self.join()? {
            crate::output::print_to_stderr(&written.to_string());
            self.prune(directory)?;
        }
        Ok(())
    }

    fn join(&mut self) -> Result<Option<Written>> {
        let Some(thread) = self.running.take() else { return Ok(None) };
        let written =
            thread.join().map_err(|_| Failure::from("writing the checkpoint panicked".to_owned()))?;
        written.map(Some).map_err(|error| {
            format!("the checkpoint was not written, the earlier ones are intact: {error}").into()
        })
    }
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, size, seconds) = (self.path.display(), bytes(self.size), self.seconds);
        write!(f, "checkpoint {path}: {size} in {seconds:.1} s")
    }
}
