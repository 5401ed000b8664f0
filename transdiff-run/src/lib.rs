//! Training runs on disk: their settings, the presets, the directory of a run with its checkpoints, and the reports that
//! are written to it.
//!
//! The crate knows no data and no trainer: it says what a run is to do, and keeps what it has done.

mod checkpoints;
mod directory;
mod events;
mod log;
mod loss_plot;
pub mod presets;
mod ranks;
pub mod settings;
mod sizes;

pub use checkpoints::CheckpointFile;
pub use directory::{CONFIG_FILE, RunDirectory};
pub use events::EventFile;
pub use log::{RankTimes, Report, RunLog};
pub use loss_plot::{LossPlot, Point};
pub use ranks::Given;
pub use sizes::DataFacts;
