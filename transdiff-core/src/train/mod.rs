//! Training: the flow objective, the optimiser, and the loop that checkpoints and resumes.

mod checkpoint;
mod config;
mod objective;
mod optimizer;
mod trainer;

pub use config::{EmaConfig, LrDecay, LrSchedule, TrainConfig};
pub use objective::{Batch, FlowDraws, loss};
pub use optimizer::{Optimizer, decays};
pub use trainer::{StepReport, Trainer};
