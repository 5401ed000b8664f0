//! Floating-point operations of a generation.

use super::{TransDiff, TransDiffConfig};
use crate::diffusion::{ArStep, Sampling};
use crate::metering::Meter;
use crate::models::Model;
use crate::{DType, Result, Tensor};

impl TransDiffConfig {
    /// Floating-point operations of the matrix products and attentions of an image with the first `given` references given,
    /// counted as the parts of a generation run on the [metering backend](Meter), which computes nothing: each once, whatever
    /// the number of steps.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together; [`Error::Argument`](crate::Error::Argument) for
    /// sampling or references that do not go with the model.
    pub fn generation_flops(&self, sampling: &Sampling, given: usize) -> Result<u64> {
        let meter = Meter::default();
        let model = TransDiff::zeros(&meter, self, DType::F32)?;
        let (ctx, decoder) = (model.inference(), model.decoder());
        let references = vec![Tensor::zeros(&meter, &self.latent_shape(1), DType::F32)?; self.groups() - 1];
        let features = model.features(&ctx, &[0], &references)?;
        let x = Tensor::zeros(&meter, &[1, self.decoder_tokens(), self.latent_channels], DType::F32)?;
        let branches = 1 + u64::from(sampling.is_guided());
        // Caches leave each group of features to be computed once.
        let mut flops = branches * meter.flops();
        for index in given..self.groups() {
            let ar_step = ArStep { index, count: self.groups(), given };
            let (solver, guidance) = (sampling.solver(ar_step)?, sampling.guidance(ar_step)?);
            let work = sampling.work_of(ar_step)?;
            let guided = work.passes - work.evaluations;
            let mut add = |times: usize, before: u64| {
                flops = flops.saturating_add((meter.flops() - before).saturating_mul(times as u64));
                meter.flops()
            };
            let before = meter.flops();
            let condition = model.condition(&ctx, &features.truncate((index + 1) * self.group_tokens())?)?;
            let before = add(1 + usize::from(guidance.scale() > 1.0), before);
            let time = decoder.time(&ctx, &[0.0])?;
            let before = add(solver.timesteps().steps() + 1, before);
            decoder.velocity(&ctx, &x.clone().into(), &time, &condition)?;
            let before = add(work.evaluations - guided, before);
            decoder.velocity(&ctx, &x.clone().into(), &time, &condition.repeated(2)?)?;
            add(guided, before);
        }
        Ok(flops)
    }
}
