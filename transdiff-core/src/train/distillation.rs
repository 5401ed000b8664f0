//! Runs that distil: their settings, and their teacher.

use super::{EmaConfig, LrDecay, LrSchedule, TrainConfig, Trainer};
use crate::models::transdiff::{ConsistencyObjective, Distillation, TransDiff};
use crate::{Backend, Result};

impl TrainConfig<ConsistencyObjective> {
    /// Settings of a distillation of `total` steps with samples in batches of `batch`: a low learning rate, small gradients, a fast
    /// EMA, no dropout and no weight decay.
    pub fn distillation(batch: usize, total: u64) -> Self {
        Self {
            dropout: 0.0,
            lr: LrSchedule {
                peak: 1e-4,
                warmup: 20.min(total / 2),
                total,
                decay: LrDecay::Linear { from: 0.5 },
            },
            weight_decay: 0.0,
            max_grad_norm: 0.1,
            ema: EmaConfig { decay: 0.99, warmup: true },
            ..Self::new(batch, total)
        }
    }
}

impl<B: Backend> Trainer<B, Distillation<B>> {
    /// The same run with its teacher, which a checkpoint does not hold.
    ///
    /// # Errors
    /// As [`Distillation::with_teacher`].
    pub fn with_teacher(mut self, teacher: &TransDiff<B>) -> Result<Self> {
        self.model = self.model.with_teacher(teacher)?;
        self.ema = self.ema.with_teacher_of(&self.model);
        Ok(self)
    }
}
