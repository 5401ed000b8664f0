//! The decoder with its condition as a velocity field.

use std::cell::RefCell;

use super::{Condition, DiffusionDecoder, TimeEmbedding};
use crate::autograd::{Context, Var};
use crate::diffusion::{ConditionalField, Timesteps};
use crate::tensor::GraphCache;
use crate::{Backend, Result, Tensor};

/// Upper end of the network's time scale.
pub(crate) const TIME_SCALE: f64 = 1000.0;

/// Number of timesteps up to which all time embeddings are computed at once: 148 MiB for the huge preset in f32.
const TABLE_LIMIT: usize = 250;

/// Cached evaluation of the decoder, as a function of latents and the two time embeddings.
type Evaluation<B> = RefCell<GraphCache<B, 3>>;

/// Time embeddings of T timesteps.
#[derive(Debug)]
struct TimeTable<B: Backend> {
    /// [T, D].
    temb: Tensor<B>,
    /// Modulations of the L blocks, [T, L, 6, D].
    modulations: Tensor<B>,
}

impl<B: Backend> TimeTable<B> {
    fn new(decoder: &DiffusionDecoder<B>, ctx: &Context<B>, times: &[f64]) -> Result<Self> {
        let timesteps: Vec<f64> = times.iter().map(|t| t * TIME_SCALE).collect();
        let TimeEmbedding { temb, modulations } = decoder.time(ctx, &timesteps)?;
        let of_block = |v: &Var<B>| v.value().reshape(&[v.dim(0), 1, v.dim(1), v.dim(2)]);
        let modulations: Vec<Tensor<B>> = modulations.iter().map(of_block).collect::<Result<_>>()?;
        let modulations = Tensor::cat(&modulations.iter().collect::<Vec<_>>(), 1)?;
        Ok(Self { temb: temb.into_value(), modulations })
    }

    /// The row `index`.
    fn at(&self, index: usize) -> Result<Self> {
        let row = |v: &Tensor<B>| v.narrow(0, index, 1);
        Ok(Self { temb: row(&self.temb)?, modulations: row(&self.modulations)? })
    }

    fn embedding(&self) -> Result<TimeEmbedding<B>> {
        let &[t, blocks, rows, d] = self.modulations.shape() else { unreachable!("four axes, as by `new`") };
        let of_block = |i| Ok(self.modulations.narrow(1, i, 1)?.reshape(&[t, rows, d])?.into());
        let modulations = (0..blocks).map(of_block).collect::<Result<_>>()?;
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
        let mut field = Self { decoder, condition, images, times, table, conditional, both, ctx };
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
        evaluation.borrow_mut().run([x, &time.temb, &time.modulations], |[x, temb, modulations]| {
            let time = TimeTable { temb: temb.clone(), modulations: modulations.clone() };
            work(x, &time.embedding()?)
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
        self.velocity(x, &self.time(t)?.embedding()?, &self.condition.narrow(self.images, self.images)?)
    }

    fn both(&self, x: &Tensor<B>, t: f64) -> Result<(Tensor<B>, Tensor<B>)> {
        let v = self.evaluate(&self.both, x, t, |x, time| self.velocity(x, time, &self.condition))?;
        Ok((v.narrow(0, 0, self.images)?, v.narrow(0, self.images, self.images)?))
    }
}
