//! A pipeline's generator and codec on one backend, behind traits that name none.

use std::fmt::Debug;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError};

use super::info::no_codec;
use super::request::{Output, Progress, Request, rows};
use crate::models::{Advance, Codec, Conditioning, Features, GenerationInput, Generator};
use crate::{Backend, CancellationToken, DType, Error, HostTensor, Result, Tensor};

/// Shared part of a [`Pipeline`](super::Pipeline).
pub(super) trait DeviceModel: Debug + Send + Sync {
    fn session(&self) -> Box<dyn DeviceSession>;
}

/// Part of a [`PipelineSession`](super::PipelineSession) that knows the backend; arguments are checked.
pub(super) trait DeviceSession: Debug + Send {
    fn set_cancellation(&mut self, token: &CancellationToken);
    fn generate(
        &mut self,
        request: &Request,
        images: Range<usize>,
        observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Output>;
    fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor>;
    fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor>;
    fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor>;
    fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor>;
}

#[derive(Debug)]
pub(super) struct OnDevice<B: Backend> {
    /// Forked for each session. Generators serve one thread at a time, and so are not `Sync`.
    generator: Mutex<Box<dyn Generator<B>>>,
    codec: Option<Arc<dyn Codec<B>>>,
}

impl<B: Backend> OnDevice<B> {
    pub(super) fn new(generator: Box<dyn Generator<B>>, codec: Option<Arc<dyn Codec<B>>>) -> Self {
        Self { generator: Mutex::new(generator), codec }
    }
}

impl<B: Backend> DeviceModel for OnDevice<B> {
    fn session(&self) -> Box<dyn DeviceSession> {
        let generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner).fork();
        Box::new(SessionOn { generator, codec: self.codec.clone(), token: CancellationToken::new() })
    }
}

#[derive(Debug)]
struct SessionOn<B: Backend> {
    generator: Box<dyn Generator<B>>,
    codec: Option<Arc<dyn Codec<B>>>,
    token: CancellationToken,
}

impl<B: Backend> SessionOn<B> {
    /// On the device as f32. The model computes in its own type; what is returned is not rounded to that.
    fn upload(&self, tensor: &HostTensor) -> Result<Tensor<B>> {
        if tensor.dtype() == DType::F32 {
            return Tensor::from_host(self.generator.backend(), tensor);
        }
        Tensor::from_host(self.generator.backend(), &tensor.clone().cast(DType::F32)?)
    }

    fn upload_all(&self, tensors: &[HostTensor]) -> Result<Vec<Tensor<B>>> {
        tensors.iter().map(|tensor| self.upload(tensor)).collect()
    }

    fn codec(&self) -> Result<&dyn Codec<B>> {
        self.codec.as_deref().ok_or_else(no_codec)
    }

    /// Input of the generation of the images `batch` of a request.
    fn input(&self, request: &Request, batch: &Range<usize>) -> Result<GenerationInput<B>> {
        let upload = |tensor: &HostTensor| self.upload(&*rows(tensor, batch)?);
        let conditioning = match &request.conditioning {
            Conditioning::Classes(classes) => Conditioning::Classes(classes[batch.clone()].to_vec()),
            Conditioning::Features { features, unconditional } => Conditioning::Features {
                features: upload(features)?,
                unconditional: match unconditional {
                    Some(one) if one.shape()[0] == 1 => Some(self.upload(one)?),
                    other => other.as_ref().map(upload).transpose()?,
                },
            },
        };
        let repeated = |latent: &HostTensor| match latent.shape()[0] {
            1 if batch.len() > 1 => {
                let shape = [&[batch.len()], &latent.shape()[1..]].concat();
                self.upload(latent)?.broadcast_to(&shape)?.contiguous()
            }
            1 => self.upload(latent),
            _ => upload(latent),
        };
        Ok(GenerationInput {
            conditioning,
            seeds: request.seeds[batch.clone()].to_vec(),
            references: request.references.iter().map(repeated).collect::<Result<_>>()?,
            initial_noise: request.initial_noise.as_ref().map(upload).transpose()?,
            sampling: request.sampling.clone(),
        })
    }

    /// Images of codes in the scale of the model.
    fn images(&self, codes: &Tensor<B>) -> Result<HostTensor> {
        download(&self.codec()?.decode_codes(codes, &self.token)?)
    }
}

impl<B: Backend> DeviceSession for SessionOn<B> {
    fn set_cancellation(&mut self, token: &CancellationToken) {
        self.token = token.clone();
        self.generator.set_cancellation(token);
    }

    fn generate(
        &mut self,
        request: &Request,
        images: Range<usize>,
        observer: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Output> {
        let total = request.images() as f64;
        self.generator.begin(self.input(request, &images)?)?;
        loop {
            let advanced = self.generator.advance()?;
            let step = advanced.step();
            let preview = || download(&self.generator.preview()?);
            let fraction = (images.start as f64 + step.fraction() * images.len() as f64) / total;
            let progress = Progress { images: images.clone(), step, fraction, preview: &preview };
            if let ControlFlow::Break(()) = observer(&progress) {
                return Err(Error::Cancelled);
            }
            if let Advance::Done(_) = advanced {
                break;
            }
        }
        let generation = self.generator.finish()?;
        let features = generation.features.filter(|_| request.outputs.features);
        Ok(Output {
            latents: download(&generation.codes)?,
            references: generation.references.iter().map(download).collect::<Result<_>>()?,
            features: features.map(|features| download_features(&features)).transpose()?,
            images: request.outputs.images.then(|| self.images(&generation.codes)).transpose()?,
        })
    }

    fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor> {
        let references = self.upload_all(references)?;
        download_features(&self.generator.features(classes, &references)?)
    }

    fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor> {
        let references = self.upload_all(references)?;
        download_features(&self.generator.unconditional_features(images, &references)?)
    }

    fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor> {
        download(&self.codec()?.encode_images(&self.upload(images)?, seeds, &self.token)?)
    }

    fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor> {
        self.images(&self.upload(latents)?)
    }
}

/// In host memory, as f32.
fn download<B: Backend>(tensor: &Tensor<B>) -> Result<HostTensor> {
    tensor.to_host()?.cast(DType::F32)
}

/// As [`download`]. Weights may be such that features are not finite.
fn download_features<B: Backend>(features: &Features<B>) -> Result<HostTensor> {
    let features = download(features.tensor())?;
    if !features.data().is_finite() {
        return Err(Error::NonFinite { stage: "features" });
    }
    Ok(features)
}
