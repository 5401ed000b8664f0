//! Posterior distribution of an image's latent.

use crate::{Backend, Error, Result, Tensor, try_with_capacity};

/// Range that log-variances are clamped to.
const LOG_VARIANCE: [f64; 2] = [-30.0, 20.0];

/// Posterior of the latents of B images: normal distributions. Latents have no latent scale yet: the models work on
/// samples times [`LATENT_SCALE`](super::LATENT_SCALE).
#[derive(Clone, Debug)]
pub struct Posterior<B: Backend> {
    moments: Tensor<B>,
    mean: Tensor<B>,
    std: Tensor<B>,
    kl: Vec<f64>,
}

impl<B: Backend> Posterior<B> {
    /// The posterior of moments [B, 2C, h, w]: C channels of means, then C of log-variances, which are clamped to
    /// [-30, 20]. [`moments`](Self::moments) returns them unclamped.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, [`Error::NonFinite`] if a moment is a NaN or an infinity.
    pub fn new(moments: Tensor<B>) -> Result<Self> {
        let &[images, channels, h, w] = moments.shape() else {
            return Err(Error::shape("Posterior::new", "moments [B, 2C, h, w]", moments.shape()));
        };
        if !channels.is_multiple_of(2) {
            return Err(Error::shape("Posterior::new", "an even number of channels", moments.shape()));
        }
        let (values, size) = (moments.to_f64()?, channels / 2 * h * w);
        if !values.iter().all(|x| x.is_finite()) {
            return Err(Error::NonFinite { stage: "vae encoder" });
        }
        let (mut deviations, mut kl) = (
            try_with_capacity("Posterior::new", images * size)?,
            try_with_capacity("Posterior::new", images)?,
        );
        for image in values.chunks_exact((2 * size).max(1)) {
            let (mean, log_variance) = image.split_at(size);
            let log_variance = log_variance.iter().map(|l| l.clamp(LOG_VARIANCE[0], LOG_VARIANCE[1]));
            deviations.extend(log_variance.clone().map(|l| (0.5 * l).exp()));
            kl.push(mean.iter().zip(log_variance).map(|(m, l)| 0.5 * (m * m + l.exp() - 1.0 - l)).sum());
        }
        kl.resize(images, 0.0);
        let shape = [images, channels / 2, h, w];
        let std = Tensor::from_f64(moments.backend(), &shape, deviations, moments.dtype())?;
        Ok(Self { mean: moments.narrow(1, 0, channels / 2)?, std, kl, moments })
    }

    /// Moments, [B, 2C, h, w], with unclamped log-variances.
    pub fn moments(&self) -> &Tensor<B> {
        &self.moments
    }

    /// Means, [B, C, h, w].
    pub fn mean(&self) -> &Tensor<B> {
        &self.mean
    }

    /// Standard deviations, [B, C, h, w].
    pub fn std(&self) -> &Tensor<B> {
        &self.std
    }

    /// mean + std·eps, for standard normal draws eps [B, C, h, w].
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] for another shape or type.
    pub fn sample(&self, eps: &Tensor<B>) -> Result<Tensor<B>> {
        eps.expect_shape("Posterior::sample", "draws", self.std.shape())?;
        self.mean.add(&self.std.mul(eps)?)
    }

    /// Kullback–Leibler divergence of each image's posterior from N(0, 1): ½ Σ (μ² + σ² − 1 − ln σ²).
    pub fn kl(&self) -> &[f64] {
        &self.kl
    }
}
