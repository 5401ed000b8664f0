//! The autoencoder as a codec: latents in the scale of the models.

use super::{LATENT_SCALE, Vae};
use crate::models::codec::check_seeds;
use crate::models::{Codec, CodecInfo, Encoded, Model};
use crate::nn::Module;
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, CancellationToken, DType, Result, Tensor, try_with_capacity};

impl<B: Backend> Codec<B> for Vae<B> {
    fn info(&self) -> CodecInfo {
        self.config().codec_info()
    }

    fn param_count(&self) -> usize {
        Module::param_count(self)
    }

    /// Samples of the posterior, or its mean, times [`LATENT_SCALE`].
    fn encode_images(
        &self,
        images: &Tensor<B>,
        seeds: Option<&[u64]>,
        token: &CancellationToken,
    ) -> Result<Tensor<B>> {
        let posterior = self.encode(&images.cast(self.dtype())?, token)?;
        let latents = match seeds {
            None => posterior.mean().clone(),
            Some(seeds) => posterior.sample(&posterior_noise(seeds, posterior.mean())?)?,
        };
        latents.affine(LATENT_SCALE, 0.0)
    }

    fn encode_moments(&self, images: &Tensor<B>, token: &CancellationToken) -> Result<Encoded<B>> {
        let posterior = self.encode(&images.cast(self.dtype())?, token)?;
        Ok(Encoded::Moments(posterior.moments().clone()))
    }

    fn decode_codes(&self, codes: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let latents = codes.cast(DType::F32)?.affine(1.0 / LATENT_SCALE, 0.0)?.cast(self.dtype())?;
        self.decode(&latents, token)
    }
}

/// N(0, 1) in the shape and type of `mean`, for each image from the stream (seed, [`Purpose::Posterior`], 0, 0).
fn posterior_noise<B: Backend>(seeds: &[u64], mean: &Tensor<B>) -> Result<Tensor<B>> {
    let shape = mean.shape();
    check_seeds(seeds, shape[0])?;
    let each = shape[1..].iter().product();
    let mut values = try_with_capacity("encode", seeds.len() * each)?;
    for &seed in seeds {
        values.extend(StreamKey::new(seed, Purpose::Posterior, 0, 0).normals(each));
    }
    Tensor::from_f32(mean.backend(), shape, values, mean.dtype())
}
