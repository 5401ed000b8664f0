//! The teacher of a run that distils.

use super::Trainer;
use crate::models::transdiff::{Distillation, TransDiff};
use crate::{Backend, Result};

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
