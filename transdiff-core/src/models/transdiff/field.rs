//! The decoder with its condition as a velocity field.

use std::cell::RefCell;

use super::{Condition, DiffusionDecoder, TimeEmbedding};
use crate::autograd::Context;
use crate::diffusion::{ConditionalField, Timesteps};
use crate::tensor::GraphCache;
use crate::{Backend, Result, Tensor};

/// Upper end of the network's time scale.
pub(crate) const TIME_SCALE: f64 = 1000.0;

/// Number of timesteps up to which all time embeddings are computed at once.
const TABLE_LIMIT: usize = 1000;

/// Cached evaluation of the decoder, as a function of latents and the two time embeddings.
type Evaluation<B> = RefCell<GraphCache<B, 3>>;

/// Time embeddings of T timesteps, as far as all blocks share them.
#[derive(Debug)]
struct TimeTable<B: Backend> {
    /// [T, D].
    temb: Tensor<B>,
    /// [T, 6, D].
    shared: Tensor<B>,
}

impl<B: Backend> TimeTable<B> {
    fn new(decoder: &DiffusionDecoder<B>, ctx: &Context<B>, times: &[f64]) -> Result<Self> {
        let timesteps: Vec<f64> = times.iter().map(|t| t * TIME_SCALE).collect();
        let (temb, shared) = decoder.shared_time(ctx, &timesteps)?;
        Ok(Self { temb: temb.into_value(), shared: shared.into_value() })
    }

    /// The row `index`.
    fn at(&self, index: usize) -> Result<Self> {
        let row = |v: &Tensor<B>| v.narrow(0, index, 1);
        Ok(Self { temb: row(&self.temb)?, shared: row(&self.shared)? })
    }

    /// Embedding of the only timestep. One sum makes the modulations of all blocks from their tables [L, 6, D].
    fn embedding(&self, tables: &Tensor<B>) -> Result<TimeEmbedding<B>> {
        let rows = tables.add(&self.shared)?;
        let modulations =
            (0..rows.dim(0)).map(|i| Ok(rows.narrow(0, i, 1)?.into())).collect::<Result<_>>()?;
        Ok(TimeEmbedding { temb: self.temb.clone().into(), modulations })
    }
}

/// Velocity of a batch of n latents, as tokens [n, S, C], in the type of the latents.
#[derive(Debug)]
pub(super) struct DecoderField<B: Backend> {
    decoder: DiffusionDecoder<B>,
    /// Conditions of n images; under guidance the unconditional ones follow.
    condition: Condition<B>,
    images: usize,
    times: Vec<f64>,
    table: Option<TimeTable<B>>,
    /// Modulation tables of the blocks, [L, 6, D].
    tables: Tensor<B>,
    /// The conditional branch alone, and both branches.
    conditional: Evaluation<B>,
    both: Evaluation<B>,
    ctx: Context<B>,
}

impl<B: Backend> DecoderField<B> {
    /// The field is evaluated in `ctx`. `unconditional`, for guidance, has n images or one that serves all.
    pub(super) fn new(
        ctx: Context<B>,
        decoder: DiffusionDecoder<B>,
        condition: Condition<B>,
        unconditional: Option<&Condition<B>>,
        timesteps: &Timesteps,
    ) -> Result<Self> {
        let images = condition.images();
        let condition = match unconditional {
            Some(other) if other.images() == images => condition.and(other)?,
            Some(other) => condition.and(&other.repeated(images)?)?,
            None => condition,
        };
        let [conditional, both] = [(); 2].map(|()| RefCell::new(GraphCache::Cold));
        let (times, table) = (Vec::new(), None);
        let tables = decoder.tables(&ctx)?.into_value();
        let mut field = Self { decoder, condition, images, times, table, tables, conditional, both, ctx };
        if timesteps.steps() <= TABLE_LIMIT {
            field.times = timesteps.times().collect();
            field.table = Some(TimeTable::new(&field.decoder, &field.ctx, &field.times)?);
        }
        Ok(field)
    }

    fn time(&self, t: f64) -> Result<TimeTable<B>> {
        match (&self.table, self.times.iter().position(|&known| known == t)) {
            (Some(table), Some(index)) => table.at(index),
            _ => TimeTable::new(&self.decoder, &self.ctx, &[t]),
        }
    }

    /// Evaluates `work` at `x` and the time `t`.
    fn evaluate(
        &self,
        evaluation: &Evaluation<B>,
        x: &Tensor<B>,
        t: f64,
        work: impl Fn(&Tensor<B>, &TimeEmbedding<B>) -> Result<Tensor<B>>,
    ) -> Result<Tensor<B>> {
        // The blocks check too, but a launched graph runs none of their code.
        self.ctx.check_cancelled()?;
        let time = self.time(t)?;
        evaluation.borrow_mut().run([x, &time.temb, &time.shared], |[x, temb, shared]| {
            let time = TimeTable { temb: temb.clone(), shared: shared.clone() };
            work(x, &time.embedding(&self.tables)?)
        })
    }

    /// The decoder computes in its own type, samplers and guidance in that of the latents.
    fn velocity(
        &self,
        x: &Tensor<B>,
        time: &TimeEmbedding<B>,
        condition: &Condition<B>,
    ) -> Result<Tensor<B>> {
        let v = self.decoder.velocity(&self.ctx, &x.clone().into(), time, condition)?;
        v.into_value().cast(x.dtype())
    }
}

impl<B: Backend> ConditionalField<B> for DecoderField<B> {
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        let condition = self.condition.narrow(0, self.images)?;
        self.evaluate(&self.conditional, x, t, |x, time| self.velocity(x, time, &condition))
    }

    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        self.ctx.check_cancelled()?;
        self.velocity(
            x,
            &self.time(t)?.embedding(&self.tables)?,
            &self.condition.narrow(self.images, self.images)?,
        )
    }

    fn both(&self, x: &Tensor<B>, t: f64) -> Result<(Tensor<B>, Tensor<B>)> {
        let v = self.evaluate(&self.both, x, t, |x, time| self.velocity(x, time, &self.condition))?;
        Ok((v.narrow(0, 0, self.images)?, v.narrow(0, self.images, self.images)?))
    }
}
