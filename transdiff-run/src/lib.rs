//! Training runs on disk: their settings, the presets, the directory of a run with its checkpoints, and the reports that
//! are written to it.
//!
//! The crate knows no data and no trainer: it says what a run is to do, and keeps what it has done.

pub mod presets;
pub mod settings;
mod sizes;

pub use sizes::DataFacts;

/// Name of the file with a run's settings, in its directory.
pub const CONFIG_FILE: &str = "config.toml";
