//! Sessions of a pipeline, and the batches of a request.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::device_session::DeviceSession;
use super::info::Info;
use super::request::{Output, Progress, Request, check_references, check_values};
use crate::{CancellationToken, HostTensor, Result};

/// Callback after each sampling step; `Break` cancels.
pub type Observer<'a> = &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>;

/// One caller's use of a [`Pipeline`](super::Pipeline). It serves one thread at a time, and is as usable after an error or a cancellation
/// as before.
#[derive(Debug)]
pub struct PipelineSession {
    session: Box<dyn DeviceSession>,
    info: Arc<Info>,
}

impl PipelineSession {
    pub(super) fn new(session: Box<dyn DeviceSession>, info: Arc<Info>) -> Self {
        Self { session, info }
    }

    /// Description of the pipeline.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Sets the token that cancels everything that the session computes from now on. It is checked between blocks of the model and the
    /// codec.
    pub fn set_cancellation(&mut self, token: &CancellationToken) {
        self.session.set_cancellation(token);
    }

    /// Generates images, or their latents. `observer` is called after every sampling step and may cancel.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) and [`Shape`](crate::Error::Shape) for a request that does not go with the pipeline,
    /// [`Cancelled`](crate::Error::Cancelled), [`NonFinite`](crate::Error::NonFinite) naming the stage, and those of the backend.
    pub fn generate(&mut self, request: &Request, observer: Observer<'_>) -> Result<Output> {
        let parts: Result<Vec<_>> =
            self.batches(request, observer)?.map(|batch| batch.map(|batch| batch.output)).collect();
        Output::concat(parts?)
    }

    /// Generates as [`generate`](Self::generate), and hands out each batch as soon as it is complete.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) and [`Shape`](crate::Error::Shape) for a request that does not go with the pipeline.
    pub fn batches<'a>(&'a mut self, request: &'a Request, observer: Observer<'a>) -> Result<Batches<'a>> {
        request.check(&self.info)?;
        Ok(Batches { session: self, request, observer, next: 0 })
    }

    /// Semantic features [n, k, D] of the classes, f32: those of the first 1 + `references.len()` AR steps, given the
    /// latents [n, C, h, w] of the earlier ones.
    ///
    /// # Errors
    /// As [`Generator::features`](crate::models::Generator::features).
    pub fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor> {
        check_references(&self.info, &[classes.len()], references)?;
        self.session.features(classes, references)
    }

    /// Unconditional features of `images` images for classifier-free guidance, in the shape of
    /// [`features`](Self::features). With multi-reference autoregression they depend on the references.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor> {
        check_references(&self.info, &[images], references)?;
        self.session.unconditional_features(images, references)
    }

    /// Latents [n, C, h, w], in the scale of the model, of images [n, c, H, W] in [-1, 1], whose sides are multiples of
    /// the codec's [`downsampling`](crate::models::CodecInfo::downsampling). With `seeds`, one per image, latents are
    /// drawn from the posterior; without, they are its mean.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) without a codec and for values that are not finite, and those of
    /// [`Codec::encode_images`](crate::models::Codec::encode_images).
    pub fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor> {
        self.info.require_image_size()?;
        check_values("images", images)?;
        self.session.encode(images, seeds)
    }

    /// Images [n, c, H, W], about in [-1, 1], of latents [n, C, h, w] in the scale of the model.
    ///
    /// # Errors
    /// [`Argument`](crate::Error::Argument) without a codec and for values that are not finite, and those of
    /// [`Codec::decode_codes`](crate::models::Codec::decode_codes).
    pub fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor> {
        self.info.require_image_size()?;
        check_values("latents", latents)?;
        self.session.decode(latents)
    }
}

/// A finished batch of a request.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Indices of its images in the request.
    pub images: Range<usize>,
    /// Its results.
    pub output: Output,
}

/// Iterator over the batches of a request, each generated when it is asked for. It ends after an error.
pub struct Batches<'a> {
    session: &'a mut PipelineSession,
    request: &'a Request,
    observer: Observer<'a>,
    /// First image of the next batch.
    next: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let images = self.request.batch_from(self.next)?;
        let output = self.session.session.generate(self.request, images.clone(), self.observer);
        self.next = if output.is_ok() { images.end } else { usize::MAX };
        Some(output.map(|output| Batch { images, output }))
    }
}
