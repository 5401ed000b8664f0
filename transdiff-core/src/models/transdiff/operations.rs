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
        let counted = |work: &dyn Fn() -> Result<()>| -> Result<u64> {
            let before = meter.flops();
            work()?;
            Ok(meter.flops() - before)
        };
        let references = vec![Tensor::zeros(&meter, &self.latent_shape(1), DType::F32)?; self.groups() - 1];
        let features = model.features(&ctx, &[0], &references)?;
        let x = Tensor::zeros(&meter, &[1, self.decoder_tokens(), self.latent_channels], DType::F32)?;
        let branches = 1 + u64::from(sampling.is_guided());
        // Caches leave each group of features to be computed once.
        let mut flops = branches * meter.flops();
        for index in given..self.groups() {
            let ar_step = ArStep { index, count: self.groups(), given };
            let (solver, guidance) = (sampling.solver(ar_step)?, sampling.guidance(ar_step)?);
            let condition = model.condition(&ctx, &features.truncate((index + 1) * self.group_tokens())?)?;
            let of_condition = counted(&|| {
                model.condition(&ctx, &features.truncate((index + 1) * self.group_tokens())?).map(drop)
            })?;
            flops += of_condition * (1 + u64::from(guidance.scale() > 1.0));
            let time = decoder.time(&ctx, &[0.0])?;
            let embeddings = 1 + solver.timesteps().steps() as u64;
            flops = flops.saturating_add(
                counted(&|| decoder.time(&ctx, &[0.0]).map(drop))?.saturating_mul(embeddings),
            );
            let both = condition.repeated(2)?;
            let velocity =
                |condition: &_| decoder.velocity(&ctx, &x.clone().into(), &time, condition).map(drop);
            let (plain, guided) = (counted(&|| velocity(&condition))?, counted(&|| velocity(&both))?);
            let work = sampling.work_of(ar_step)?;
            let active = (work.passes - work.evaluations) as u64;
            flops = flops.saturating_add(plain.saturating_mul(work.evaluations as u64 - active));
            flops = flops.saturating_add(guided.saturating_mul(active));
        }
        Ok(flops)
    }
}
