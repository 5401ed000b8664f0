//! The image autoencoder: the KL-VAE of latent diffusion (Rombach et al. 2022) in the sizes that TransDiff uses
//! (KL-16, paper Appendix C). It encodes images into latents, on which the model works, and decodes latents into images.
//!
//! It is frozen: nothing here is recorded on a tape. Images go through it one by one, so that memory does not grow
//! with the batch and an image is bitwise identical in any batch. Inside, channels are the last axis ([B, H, W, C]).

mod codec;
mod config;
mod decoder;
mod encoder;
mod layers;
mod memory;
mod mid_block;
mod posterior;
mod stored;

pub use config::{LATENT_SCALE, VaeConfig};
use decoder::Decoder;
use encoder::Encoder;
use layers::Conv2d;
pub use posterior::Posterior;
pub use stored::StoredVae;
pub(crate) use stored::{SIGNATURE, holds_vae};

use super::Model;
use crate::checkpoint::WeightView;
use crate::nn::{Init, module};
use crate::{Backend, CancellationToken, DType, Error, Precision, Result, Tensor};

/// The autoencoder.
#[derive(Clone, Debug)]
pub struct Vae<B: Backend> {
    config: VaeConfig,
    backend: B,
    dtype: DType,
    encoder: Encoder<B>,
    quant_conv: Conv2d<B>,
    post_quant_conv: Conv2d<B>,
    decoder: Decoder<B>,
}

module!(Vae {
    "encoder" => encoder,
    "quant_conv" => quant_conv,
    "post_quant_conv" => post_quant_conv,
    "decoder" => decoder,
});

impl<B: Backend> Model<B> for Vae<B> {
    type Config = VaeConfig;

    const CONFIG_KEY: &'static str = VaeConfig::METADATA_KEY;

    fn placeholder(backend: &B, config: &VaeConfig, precision: impl Into<Precision>) -> Result<Self> {
        let dtype = precision.into().dtype();
        Self::build(backend, config, dtype, &mut Init::placeholder(backend, dtype))
    }

    /// The configuration is always that of the shapes.
    fn check_config(config: &VaeConfig, _: &WeightView<'_>) -> Result<()> {
        config.validate()
    }

    fn config(&self) -> &VaeConfig {
        &self.config
    }

    fn backend(&self) -> &B {
        &self.backend
    }

    /// Type of the weights, in which everything is computed.
    fn dtype(&self) -> DType {
        self.dtype
    }
}

impl<B: Backend> Vae<B> {
    /// An autoencoder with random weights, drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn new(backend: &B, config: &VaeConfig, dtype: DType, seed: u64) -> Result<Self> {
        Self::build(backend, config, dtype, &mut Init::random(backend, dtype, seed))
    }

    fn build(backend: &B, config: &VaeConfig, dtype: DType, init: &mut Init<B>) -> Result<Self> {
        config.validate()?;
        let (latent, moments) = (config.latent_channels, 2 * config.latent_channels);
        Ok(Self {
            config: config.clone(),
            backend: backend.clone(),
            dtype,
            encoder: Encoder::new(init, config)?,
            quant_conv: Conv2d::new(init, moments, moments, 1)?,
            post_quant_conv: Conv2d::new(init, latent, latent, 1)?,
            decoder: Decoder::new(init, config)?,
        })
    }

    /// Pixels per position of the latent, along each side: 16 in the published autoencoder.
    pub fn downsampling(&self) -> usize {
        self.config.downsampling()
    }

    /// The posteriors of images [B, 3, H, W] in [-1, 1], in the [accumulator's](DType::accumulator) type; H and W are
    /// multiples of [`downsampling`](Self::downsampling).
    ///
    /// # Errors
    /// [`Error::Shape`] for other images, [`Error::DType`] for another type than the weights', [`Error::Cancelled`], [`Error::NonFinite`] if the result holds a NaN or an infinity.
    pub fn encode(&self, images: &Tensor<B>, token: &CancellationToken) -> Result<Posterior<B>> {
        let factor = self.downsampling();
        let expected =
            || format!("[B, {}, H, W] with H and W multiples of {factor}", self.config.image_channels);
        self.check("Vae::encode", images, self.config.image_channels, factor, expected)?;
        let [h, w] = [2, 3].map(|axis| images.dim(axis) / factor);
        let moments = each_batch(images, [2 * self.config.latent_channels, h, w], |image| {
            self.quant_conv.forward(&self.encoder.forward(image, token)?, None)
        })?;
        // Standard deviations are exponentials of them.
        Posterior::new(moments.cast(self.dtype.accumulator())?)
    }

    /// Images [B, 3, H, W], about in [-1, 1], of latents [B, C, h, w] without latent scale: divide the models' latents by
    /// [`LATENT_SCALE`].
    ///
    /// # Errors
    /// [`Error::Shape`] for other latents, [`Error::DType`] for another type than the weights', [`Error::Cancelled`], [`Error::NonFinite`] if the result holds a NaN or an infinity.
    pub fn decode(&self, latents: &Tensor<B>, token: &CancellationToken) -> Result<Tensor<B>> {
        let channels = self.config.latent_channels;
        self.check("Vae::decode", latents, channels, 1, || format!("[B, {channels}, h, w], not empty"))?;
        let [h, w] = [2, 3].map(|axis| latents.dim(axis) * self.downsampling());
        let images = each_batch(latents, [self.config.image_channels, h, w], |latent| {
            self.decoder.forward(&self.post_quant_conv.forward(latent, None)?, token)
        })?;
        if images.is_finite()? { Ok(images) } else { Err(Error::NonFinite { stage: "vae decoder" }) }
    }

    fn check(
        &self,
        op: &'static str,
        x: &Tensor<B>,
        channels: usize,
        factor: usize,
        expected: impl Fn() -> String,
    ) -> Result<()> {
        if x.dtype() != self.dtype {
            return Err(Error::DType { op, expected: self.dtype.to_string(), got: x.dtype() });
        }
        match *x.shape() {
            [_, c, h, w] if c == channels && h * w > 0 && h % factor == 0 && w % factor == 0 => Ok(()),
            _ => Err(Error::shape(op, expected(), x.shape())),
        }
    }
}

/// Applies `f` to the images of x [B, C, H, W] as [n, H, W, C], and joins the results as [B, C', H', W']. As many images
/// are processed at a time as fill the device, counted in pixels of x or of the result, whichever has more.
fn each_batch<B: Backend>(
    x: &Tensor<B>,
    [c, h, w]: [usize; 3],
    mut f: impl FnMut(&Tensor<B>) -> Result<Tensor<B>>,
) -> Result<Tensor<B>> {
    let pixels = (h * w).max(x.dim(2) * x.dim(3));
    let (images, at_once) = (x.dim(0), x.backend().images_at_once(pixels).max(1));
    let mut batch = |start: usize| {
        let some = x.narrow(0, start, at_once.min(images - start))?;
        f(&some.permute(&[0, 2, 3, 1])?)?.permute(&[0, 3, 1, 2])
    };
    let made = (0..images).step_by(at_once).map(&mut batch).collect::<Result<Vec<_>>>()?;
    if made.is_empty() {
        return Tensor::zeros(x.backend(), &[0, c, h, w], x.dtype());
    }
    Tensor::cat(&made.iter().collect::<Vec<_>>(), 0)
}
