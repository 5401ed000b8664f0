//! Floating-point operations of a generation.

use super::{Session, TransDiff, TransDiffConfig};
use crate::diffusion::{KeyedNoise, NoopObserver, Sampling};
use crate::metering::Meter;
use crate::models::Model;
use crate::{DType, Result, Tensor};

impl TransDiffConfig {
    /// Floating-point operations of the matrix products and attentions of an image with the first `given` references given,
    /// counted as the generation runs on the [metering backend](Meter), which computes nothing.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together; [`Error::Argument`](crate::Error::Argument) for
    /// sampling or references that do not go with the model.
    pub fn generation_flops(&self, sampling: &Sampling, given: usize) -> Result<u64> {
        let meter = Meter::default();
        let model = TransDiff::zeros(&meter, self, DType::F32)?;
        let reference = |_| Tensor::zeros(&meter, &self.latent_shape(1), DType::F32);
        let references = (0..given).map(reference).collect::<Result<Vec<_>>>()?;
        let mut noise = KeyedNoise::new(&meter, DType::F32, &[0]);
        Session::new(&model).generate(&[0], &references, sampling, &mut noise, &mut NoopObserver)?;
        Ok(meter.flops())
    }
}
