//! The decoder with its condition, as the velocity field that a sampler integrates.

use super::{Condition, DiffusionDecoder, TimeEmbedding};
use crate::autograd::Var;
use crate::nn::Context;
use crate::sampler::{GuidedField, Schedule};
use crate::{Backend, Result, Tensor};

/// The network's time runs from 0 to this.
pub(crate) const TIME_SCALE: f64 = 1000.0;

/// Schedules up to this length have their time embeddings computed in one go.
const TABLE_LIMIT: usize = 1000;

/// The velocity of a batch of n latents, as tokens [n, S, C].
pub(super) struct DecoderField<'a, B: Backend> {
    decoder: &'a DiffusionDecoder<B>,
    /// Conditions of n images; under guidance those without class follow.
    condition: Condition<B>,
    images: usize,
    times: Vec<f64>,
    table: Option<TimeEmbedding<B>>,
    ctx: Context<B>,
}

impl<'a, B: Backend> DecoderField<'a, B> {
    /// The field is evaluated in `ctx`. `unconditional`, for guidance, has n images or one that serves all.
    pub(super) fn new(
        ctx: Context<B>,
        decoder: &'a DiffusionDecoder<B>,
        condition: Condition<B>,
        unconditional: Option<&Condition<B>>,
        schedule: Schedule,
    ) -> Result<Self> {
        let images = condition.images();
        let condition = match unconditional {
            Some(other) if other.images() == images => condition.and(other)?,
            Some(other) => condition.and(&other.repeated(images)?)?,
            None => condition,
        };
        let mut field = Self { decoder, condition, images, times: Vec::new(), table: None, ctx };
        if schedule.steps() <= TABLE_LIMIT {
            field.times = schedule.times().collect();
            field.table = Some(field.embed(&field.times)?);
        }
        Ok(field)
    }

    fn embed(&self, times: &[f64]) -> Result<TimeEmbedding<B>> {
        let timesteps: Vec<f64> = times.iter().map(|t| t * TIME_SCALE).collect();
        self.decoder.time(&self.ctx, &timesteps)
    }

    fn time(&self, t: f64) -> Result<TimeEmbedding<B>> {
        match (&self.table, self.times.iter().position(|&known| known == t)) {
            (Some(table), Some(index)) => table.at(index),
            _ => self.embed(&[t]),
        }
    }

    fn velocity(&self, x: &Tensor<B>, t: f64, condition: &Condition<B>) -> Result<Tensor<B>> {
        let x = Var::from(x.clone());
        Ok(self.decoder.velocity(&self.ctx, &x, &self.time(t)?, condition)?.into_value())
    }
}

impl<B: Backend> GuidedField<B> for DecoderField<'_, B> {
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        self.velocity(x, t, &self.condition.narrow(0, self.images)?)
    }

    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        self.velocity(x, t, &self.condition.narrow(self.images, self.images)?)
    }

    fn both(&self, x: &Tensor<B>, t: f64) -> Result<(Tensor<B>, Tensor<B>)> {
        let v = self.velocity(&Tensor::cat(&[x, x], 0)?, t, &self.condition)?;
        Ok((v.narrow(0, 0, self.images)?, v.narrow(0, self.images, self.images)?))
    }
}
