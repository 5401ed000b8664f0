//! What is asked of a session, and what it gives.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::Info;
use crate::diffusion::ArStep;
use crate::models::transdiff::Sampling;
use crate::{Error, HostTensor, Result};

/// What images are made from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A class each.
    Classes(Vec<usize>),
    /// Semantic features [n, k, D], which may have been cut or mixed.
    Features {
        /// The features to decode.
        features: HostTensor,
        /// The features that guidance leads away from, [n, k, D] or [1, k, D]. Without, those for no class, cut alike;
        /// features of more than the first group of multi-reference autoregression need them, since there they depend
        /// on the references ([`unconditional_features`](super::PipelineSession::unconditional_features)).
        unconditional: Option<HostTensor>,
    },
}

impl Source {
    /// Number of images.
    pub fn images(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Features { features, .. } => features.shape().first().copied().unwrap_or(0),
        }
    }
}

/// What is kept of a generation; latents always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The images, which takes a VAE.
    pub images: bool,
    /// The features that the last latents were decoded from.
    pub features: bool,
}

/// A generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// Classes, or features.
    pub source: Source,
    /// The seed of each image: with it, the image is the same alone and in any batch.
    pub seeds: Vec<u64>,
    /// The sampler and its guidance.
    pub sampling: Sampling,
    /// Latents [n, C, h, w] to use in place of the first ones that multi-reference autoregression would generate itself.
    pub references: Vec<HostTensor>,
    /// The state at t = 1, [n, C, h, w], in place of the seeds' starting noise.
    pub starting: Option<HostTensor>,
    /// How many images are computed at a time; all, if it is not given. More take more memory, and change nothing else.
    pub batch: Option<NonZeroUsize>,
    /// What is kept.
    pub wanted: Wanted,
}

impl Request {
    /// An image for every class, in one batch.
    pub fn new(classes: Vec<usize>, seeds: Vec<u64>, sampling: Sampling) -> Self {
        Self {
            source: Source::Classes(classes),
            seeds,
            sampling,
            references: Vec::new(),
            starting: None,
            batch: None,
            wanted: Wanted::default(),
        }
    }

    /// What can be said before anything is computed.
    pub(super) fn check(&self, info: &Info) -> Result<()> {
        let n = self.source.images();
        if n == 0 {
            return Err(Error::argument("images", "at least one", 0));
        }
        if self.seeds.len() != n {
            return Err(Error::argument("seeds", format!("{n}, one an image"), self.seeds.len()));
        }
        match &self.source {
            Source::Classes(classes) => info.config.check_labels(classes)?,
            Source::Features { features, unconditional } => {
                check_features(info, "features", features)?;
                if let Some(other) = unconditional {
                    check_features(info, "unconditional", other)?;
                    let (got, want) = (other.shape(), features.shape());
                    if (got[0] != 1 && got[0] != want[0]) || got[1] != want[1] {
                        let expected = format!("unconditional features of 1 or {} × {}", want[0], want[1]);
                        return Err(Error::shape("generate", expected, got));
                    }
                }
                let guided = self.sampling.guidance.iter().any(|guidance| guidance.scale() > 1.0);
                if guided && unconditional.is_none() && features.shape()[1] > info.config.group_tokens() {
                    let expected = "features, for a guidance above 1 of more than one group";
                    return Err(Error::argument("unconditional", expected, "none"));
                }
                if !self.references.is_empty() {
                    let expected = "none where features are given";
                    return Err(Error::argument("references", expected, self.references.len()));
                }
            }
        }
        check_references(info, n, &self.references)?;
        if let Some(starting) = &self.starting {
            check_latent(info, n, "starting", starting)?;
        }
        if self.wanted.images {
            info.vae_image_size()?;
        }
        Ok(())
    }

    /// The images of each batch.
    pub(super) fn batches(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.source.images();
        let size = self.batch.map_or(n, NonZeroUsize::get).max(1);
        (0..n).step_by(size).map(move |start| start..n.min(start.saturating_add(size)))
    }
}

/// What a request gives; tensors are f32.
#[derive(Clone, Debug)]
pub struct Output {
    /// [n, C, h, w], in the scale of the model.
    pub latents: HostTensor,
    /// The latents [n, C, h, w] that were references on the way, given ones included; empty in one step.
    pub references: Vec<HostTensor>,
    /// [n, k, D], if wanted.
    pub features: Option<HostTensor>,
    /// [n, 3, H, W] around [-1, 1], if wanted.
    pub images: Option<HostTensor>,
}

/// A step of the sampler that was just done.
pub struct Step<'a> {
    /// The images of the batch that is being computed.
    pub images: Range<usize>,
    /// Which of the batch's trajectories is running.
    pub ar_step: ArStep,
    /// How many steps of the trajectory are done, from 1 to `steps`.
    pub step: usize,
    /// How many steps the trajectory has.
    pub steps: usize,
    /// The time in (0, 1] from which the step was made.
    pub t: f64,
    /// Share of the whole request's steps that are done, in (0, 1].
    pub fraction: f64,
    pub(super) preview: &'a dyn Fn() -> Result<HostTensor>,
}

impl Step<'_> {
    /// The clean latents [b, C, h, w] of the batch as predicted at this step; computed when asked for.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn preview(&self) -> Result<HostTensor> {
        (self.preview)()
    }
}

impl std::fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("images", &self.images)
            .field("ar_step", &self.ar_step)
            .field("step", &self.step)
            .field("steps", &self.steps)
            .field("t", &self.t)
            .field("fraction", &self.fraction)
            .finish_non_exhaustive()
    }
}

pub(super) fn check_references(info: &Info, n: usize, references: &[HostTensor]) -> Result<()> {
    references.iter().try_for_each(|latent| check_latent(info, n, "references", latent))
}

fn check_latent(info: &Info, n: usize, what: &'static str, latent: &HostTensor) -> Result<()> {
    let shape = info.config.latent_shape(n);
    if latent.shape() != shape {
        return Err(Error::shape("generate", format!("{what} {shape:?}"), latent.shape()));
    }
    check_values(what, latent)
}

fn check_features(info: &Info, what: &'static str, features: &HostTensor) -> Result<()> {
    let (most, width) = (info.config.feature_tokens, info.config.width);
    match features.shape() {
        &[_, k, d] if d == width && (1..=most).contains(&k) => check_values(what, features),
        other => Err(Error::shape("generate", format!("{what} [n, 1..={most}, {width}]"), other)),
    }
}

pub(super) fn check_values(what: &'static str, tensor: &HostTensor) -> Result<()> {
    if tensor.data().is_finite() {
        Ok(())
    } else {
        Err(Error::argument(what, "finite values", "a NaN or an infinity"))
    }
}
