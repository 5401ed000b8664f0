//! A pipeline's model on one backend, behind traits that name none.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::{ControlFlow, Range};

use transdiff_core::try_with_capacity;

use super::{Output, Request, Source, Step};
use crate::diffusion::{KeyedNoise, Progress};
use crate::models::transdiff::{
    Features, Generation, Sampling, Session, TransDiff, latent_tokens, unpatchify,
};
use crate::models::vae::{LATENT_SCALE, Vae};
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, CancellationToken, DType, Error, HostTensor, Result, Tensor};

type Observer<'a> = &'a mut dyn FnMut(&Step<'_>) -> ControlFlow<()>;

/// What a [`Pipeline`](super::Pipeline) shares.
pub(super) trait DeviceModel: Debug + Send + Sync {
    fn session(&self) -> Box<dyn DeviceSession>;
}

/// What a [`PipelineSession`](super::PipelineSession) owns; arguments are checked.
pub(super) trait DeviceSession: Debug + Send {
    fn set_cancellation(&mut self, cancellation: &CancellationToken);
    fn generate(&mut self, request: &Request, observer: Observer<'_>) -> Result<Output>;
    fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor>;
    fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor>;
    fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor>;
    fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor>;
}

#[derive(Debug)]
pub(super) struct OnDevice<B: Backend> {
    pub model: TransDiff<B>,
    pub vae: Option<Vae<B>>,
}

impl<B: Backend> DeviceModel for OnDevice<B> {
    fn session(&self) -> Box<dyn DeviceSession> {
        Box::new(SessionOn {
            session: Session::new(&self.model),
            vae: self.vae.clone(),
            cancellation: CancellationToken::new(),
        })
    }
}

#[derive(Debug)]
struct SessionOn<B: Backend> {
    session: Session<B>,
    vae: Option<Vae<B>>,
    cancellation: CancellationToken,
}

impl<B: Backend> SessionOn<B> {
    fn backend(&self) -> &B {
        self.session.model().backend()
    }

    /// On the device as f32. The model takes it in its own type; what is handed back is not rounded to that.
    fn upload(&self, tensor: &HostTensor) -> Result<Tensor<B>> {
        if tensor.dtype() == DType::F32 {
            return Tensor::from_host(self.backend(), tensor);
        }
        Tensor::from_host(self.backend(), &tensor.clone().cast(DType::F32)?)
    }

    fn upload_all(&self, tensors: &[HostTensor]) -> Result<Vec<Tensor<B>>> {
        tensors.iter().map(|tensor| self.upload(tensor)).collect()
    }

    fn vae(&self) -> Result<&Vae<B>> {
        self.vae.as_ref().ok_or_else(super::load::no_vae)
    }

    /// The generation of the images `batch` of a request.
    fn run(
        &mut self,
        request: &Request,
        batch: &Range<usize>,
        count: usize,
        observer: Observer<'_>,
    ) -> Result<Generation<B>> {
        let mut noise = KeyedNoise::new(self.backend(), DType::F32, &request.seeds[batch.clone()]);
        if let Some(starting) = &request.starting {
            noise = noise.with_initial(latent_tokens(&self.upload(&*rows(starting, batch)?)?)?);
        }
        let side = self.session.model().config().latent_size;
        let mut watch = |p: &Progress<'_, B>| {
            let preview = || download(&unpatchify(&p.preview()?, side, side, 1)?);
            let done = batch.start as f64 + p.fraction() * batch.len() as f64;
            observer(&Step {
                images: batch.clone(),
                ar_step: p.ar_step,
                step: p.step,
                steps: p.steps,
                t: p.t,
                fraction: done / count as f64,
                preview: &preview,
            })
        };
        match &request.source {
            Source::Classes(classes) => {
                let upload = |latent: &HostTensor| self.upload(&*rows(latent, batch)?);
                let references: Vec<_> = request.references.iter().map(upload).collect::<Result<_>>()?;
                let classes = &classes[batch.clone()];
                self.session.generate(classes, &references, &request.sampling, &mut noise, &mut watch)
            }
            Source::Features { features, unconditional } => {
                let features = Features::new(self.upload(&*rows(features, batch)?)?)?;
                let against = match unconditional {
                    Some(other) if other.shape()[0] == 1 => Some(Cow::Borrowed(other)),
                    other => other.as_ref().map(|other| rows(other, batch)).transpose()?,
                };
                let against = against.map(|u| Features::new(self.upload(&u)?)).transpose()?;
                let (sampling, noise) = (&request.sampling, &mut noise);
                let latents =
                    self.decode_features(&features, against.as_ref(), sampling, noise, &mut watch)?;
                Ok(Generation { latents, references: Vec::new(), features })
            }
        }
    }

    fn decode_features(
        &mut self,
        features: &Features<B>,
        unconditional: Option<&Features<B>>,
        sampling: &Sampling,
        noise: &mut KeyedNoise<B>,
        watch: &mut dyn crate::diffusion::Observer<B>,
    ) -> Result<Tensor<B>> {
        match unconditional {
            Some(other) => {
                self.session.decode_with_unconditional(features, Some(other), sampling, noise, watch)
            }
            None => self.session.decode(features, sampling, noise, watch),
        }
    }

    /// Images of latents in the scale of the model.
    fn decoded(&self, latents: &Tensor<B>) -> Result<HostTensor> {
        let vae = self.vae()?;
        let latents = latents.cast(DType::F32)?.affine(1.0 / LATENT_SCALE, 0.0)?.cast(vae.dtype())?;
        download(&vae.decode(&latents, &mut || self.cancellation.proceed())?)
    }
}

impl<B: Backend> DeviceSession for SessionOn<B> {
    fn set_cancellation(&mut self, cancellation: &CancellationToken) {
        self.cancellation = cancellation.clone();
        self.session.set_cancellation(cancellation);
    }

    fn generate(&mut self, request: &Request, observer: Observer<'_>) -> Result<Output> {
        let count = request.source.images();
        let mut parts = Vec::new();
        for batch in request.batches() {
            let made = self.run(request, &batch, count, observer)?;
            parts.push(Output {
                latents: download(&made.latents)?,
                references: made.references.iter().map(download).collect::<Result<_>>()?,
                features: request.wanted.features.then(|| download_features(&made.features)).transpose()?,
                images: request.wanted.images.then(|| self.decoded(&made.latents)).transpose()?,
            });
        }
        joined(parts)
    }

    fn features(&mut self, classes: &[usize], references: &[HostTensor]) -> Result<HostTensor> {
        download_features(&self.session.features(classes, &self.upload_all(references)?)?)
    }

    fn unconditional_features(&mut self, images: usize, references: &[HostTensor]) -> Result<HostTensor> {
        download_features(&self.session.unconditional_features(images, &self.upload_all(references)?)?)
    }

    fn encode(&mut self, images: &HostTensor, seeds: Option<&[u64]>) -> Result<HostTensor> {
        let vae = self.vae()?;
        let images = self.upload(images)?.cast(vae.dtype())?;
        let posterior = vae.encode(&images, &mut || self.cancellation.proceed())?;
        let latents = match seeds {
            None => posterior.mean().clone(),
            Some(seeds) => posterior.sample(&self.posterior_noise(seeds, posterior.mean())?)?,
        };
        download(&latents.affine(LATENT_SCALE, 0.0)?)
    }

    fn decode(&mut self, latents: &HostTensor) -> Result<HostTensor> {
        self.decoded(&self.upload(latents)?)
    }
}

impl<B: Backend> SessionOn<B> {
    /// N(0, 1) in the shape and type of `mean`, for each image from the stream (seed, [`Purpose::Posterior`], 0, 0).
    fn posterior_noise(&self, seeds: &[u64], mean: &Tensor<B>) -> Result<Tensor<B>> {
        let shape = mean.shape();
        if shape.first() != Some(&seeds.len()) {
            return Err(Error::argument("seeds", format!("{}, one an image", shape[0]), seeds.len()));
        }
        let each = shape[1..].iter().product();
        let mut values = try_with_capacity("pipeline", seeds.len() * each)?;
        for &seed in seeds {
            values.extend(StreamKey::new(seed, Purpose::Posterior, 0, 0).normals(each));
        }
        Tensor::from_f32(self.backend(), shape, values, mean.dtype())
    }
}

/// In host memory, as f32.
fn download<B: Backend>(tensor: &Tensor<B>) -> Result<HostTensor> {
    tensor.to_host()?.cast(DType::F32)
}

/// As [`download`]; what the model made of its weights may be no numbers.
fn download_features<B: Backend>(features: &Features<B>) -> Result<HostTensor> {
    let features = download(features.tensor())?;
    if !features.data().is_finite() {
        return Err(Error::NonFinite { stage: "features" });
    }
    Ok(features)
}

/// The values of a tensor that is in host memory as f32.
fn values(tensor: &HostTensor) -> Result<&[f32]> {
    let wrong = || Error::DType { op: "pipeline", expected: "f32".into(), got: tensor.dtype() };
    tensor.as_f32().ok_or_else(wrong)
}

/// The images `range` of a tensor [n, ..].
fn rows<'a>(tensor: &'a HostTensor, range: &Range<usize>) -> Result<Cow<'a, HostTensor>> {
    let n = tensor.shape()[0];
    if *range == (0..n) {
        return Ok(Cow::Borrowed(tensor));
    }
    let all = values(tensor)?;
    let each = all.len() / n;
    let mut part = try_with_capacity("pipeline", range.len() * each)?;
    part.extend_from_slice(&all[range.start * each..range.end * each]);
    let shape = [&[range.len()], &tensor.shape()[1..]].concat();
    Ok(Cow::Owned(HostTensor::f32(&shape, part)?))
}

/// Batches, one after another.
fn joined(mut parts: Vec<Output>) -> Result<Output> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let steps = parts.first().map_or(0, |part| part.references.len());
    Ok(Output {
        latents: stacked(parts.iter().map(|part| &part.latents).collect())?,
        references: (0..steps)
            .map(|i| stacked(parts.iter().filter_map(|part| part.references.get(i)).collect()))
            .collect::<Result<_>>()?,
        features: optional(parts.iter().map(|part| part.features.as_ref()))?,
        images: optional(parts.iter().map(|part| part.images.as_ref()))?,
    })
}

/// What every batch has, or none.
fn optional<'a>(parts: impl Iterator<Item = Option<&'a HostTensor>>) -> Result<Option<HostTensor>> {
    parts.collect::<Option<Vec<_>>>().map(stacked).transpose()
}

fn stacked(parts: Vec<&HostTensor>) -> Result<HostTensor> {
    let mut shape = parts[0].shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let mut all = try_with_capacity("pipeline", parts.iter().map(|part| part.data().len()).sum())?;
    for part in parts {
        all.extend_from_slice(values(part)?);
    }
    HostTensor::f32(&shape, all)
}
