//! Everything that a run is made of before it has a device.

use std::path::PathBuf;

use transdiff::train::TrainConfig;
use transdiff_run::RunDirectory;
use transdiff_run::settings::RunConfig;

use super::data::TrainingData;
use crate::job::Job;

/// A run that is ready to begin or to go on.
pub struct Plan<'a> {
    pub job: &'a Job,
    pub settings: RunConfig,
    pub data: TrainingData,
    /// Path of the run's directory.
    pub path: PathBuf,
    /// Directory of the run, on rank 0, which alone writes to it.
    pub directory: Option<RunDirectory>,
    /// Settings of the trainer.
    pub train: TrainConfig,
    /// Divides the optimiser's state among the ranks.
    pub shard_optimizer: bool,
}

impl Plan<'_> {
    /// Samples of a step on all ranks.
    pub fn samples_per_step(&self) -> u64 {
        self.train.batch as u64 * self.train.accumulate as u64 * self.job.size() as u64
    }
}
