//! Training: the optimiser, the EMA, learning-rate schedules, and the loop over any [`Trainable`](crate::models::Trainable)
//! that writes checkpoints and resumes from them.

mod buckets;
mod config;
mod distillation;
mod estimate;
mod optimizer;
mod passes;
mod ranks;
mod trainer;
mod training_state;

pub use config::{Accumulation, EmaConfig, LrDecay, LrSchedule, TrainConfig};
pub use estimate::TrainingEstimate;
pub use optimizer::Optimizer;
pub use ranks::Distribution;
pub use trainer::{StepReport, Trainer};
pub use training_state::Snapshot;
