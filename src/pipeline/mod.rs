//! The whole way from a class to an image, on a device that is chosen at run time.
//!
//! [`Pipeline`] is a model, with a VAE or without, behind a type that names no backend; everything that goes in and
//! comes out is in host memory. It is what the C ABI and the command line stand on. Programs that know their backend
//! can use [`TransDiff`](crate::TransDiff) and [`Session`](crate::models::transdiff::Session) themselves: the numbers are the same.

mod estimate;
mod load;
mod on_device;
mod pixels;
mod request;

use std::sync::Arc;

pub use estimate::MemoryEstimate;
pub use load::{Info, LoadOptions, LogLevel, VaeInfo};
pub use pixels::{PixelFormat, from_pixels, to_pixels};
pub use request::{Output, Request, Source, Step, Wanted};

use crate::checkpoint::WeightFile;
use crate::{CancellationToken, HostTensor, Result};
use on_device::{DeviceModel, DeviceSession};

/// A model on a device. It is immutable, and clones share it: any number of sessions, on any threads, use one.
#[derive(Clone, Debug)]
pub struct Pipeline {
    model: Arc<dyn DeviceModel>,
    info: Arc<Info>,
}

impl Pipeline {
    /// Loads `model`, and `vae` if images and not only latents are wanted. `log` is told what was chosen and why.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) for a device that is not there, [`DType`](crate::Error::DType) for a
    /// type in which it does not compute, [`Config`](crate::Error::Config) if model and VAE do not go together, and
    /// those of [`StoredTransDiff`](crate::models::transdiff::StoredTransDiff) and [`StoredVae`](crate::models::vae::StoredVae).
    pub fn load(
        model: &WeightFile,
        vae: Option<&WeightFile>,
        options: &LoadOptions,
        log: &mut dyn FnMut(LogLevel, &str),
    ) -> Result<Self> {
        load::load(model, vae, options, log)
    }

    /// What [`load`](Self::load) and one generation of `images` images at a time will take, from the files' headers
    /// alone.
    ///
    /// # Errors
    /// As [`load`](Self::load), but for the values of tensors.
    pub fn estimate(
        model: &WeightFile,
        vae: Option<&WeightFile>,
        options: &LoadOptions,
        images: usize,
    ) -> Result<MemoryEstimate> {
        estimate::estimate(model, vae, options, images)
    }

    /// What was loaded.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A session of one caller.
    pub fn session(&self) -> PipelineSession {
        PipelineSession { session: self.model.session(), info: Arc::clone(&self.info) }
    }
}

/// One caller's use of a [`Pipeline`]. It serves one thread at a time, and is as usable after an error or a
/// cancellation as before.
#[derive(Debug)]
pub struct PipelineSession {
    session: Box<dyn DeviceSession>,
    info: Arc<Info>,
}

impl PipelineSession {
    /// The model that the session uses.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Lets `cancellation` stop what the session does from now on, within a block of the model or of the VAE.
    pub fn set_cancellation(&mut self, cancellation: &CancellationToken) {
        self.session.set_cancellation(cancellation);
    }

    /// Generates images, or their latents; `observer` sees every step of the sampler and may stop it.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) and [`Shape`](crate::Error::Shape) for a request that does not fit the
    /// model, [`Cancelled`](crate::Error::Cancelled), [`NonFinite`](crate::Error::NonFinite) naming the stage, and what
    /// the backend meets.
    pub fn generate(
        &mut self,
        request: &Request,
        observer: &mut dyn FnMut(&Step<'_>) -> std::ops::ControlFlow<()>,
    ) -> Result<Output> {
        request.check(&self.info)?;
        self.session.generate(request, observer)
    }

    /// Semantic features [n, k, D] of the classes, f32. With multi-reference autoregression, those of the first
    /// 1 + `references.len()` groups, given the latents [n, C, h, w] of the earlier images.
    ///
    /// # Errors
    /// As [`TransDiff::features`](crate::TransDiff::features).
    pub fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor> {
        request::check_references(&self.info, classes.len(), references)?;
        self.session.features(classes, references)
    }

    /// Semantic features for no class of `images` images, in the shape of [`features`](Self::features): what guidance
    /// leads away from. With multi-reference autoregression they depend on the references.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor> {
        request::check_references(&self.info, images, references)?;
        self.session.unconditional_features(images, references)
    }

    /// Latents [n, C, h, w], in the scale of the model, of images [n, 3, H, W] in [-1, 1], whose sides are multiples of
    /// the VAE's [`downsampling`](VaeInfo::downsampling). With `seeds`, one an image, latents are drawn from the
    /// posterior; without, they are its mean.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) without a VAE, for values that are not finite and for a wrong number of
    /// seeds, and those of
    /// [`Vae::encode`](crate::models::vae::Vae::encode).
    pub fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor> {
        self.info.vae_image_size()?;
        request::check_values("images", images)?;
        self.session.encode(images, seeds)
    }

    /// Images [n, 3, H, W] around [-1, 1] of latents [n, C, h, w] in the scale of the model.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) without a VAE and for values that are not finite, and those of
    /// [`Vae::decode`](crate::models::vae::Vae::decode).
    pub fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor> {
        self.info.vae_image_size()?;
        request::check_values("latents", latents)?;
        self.session.decode(latents)
    }
}
