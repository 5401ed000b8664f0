//! Requests to a pipeline, and their results.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;

use transdiff_core::try_with_capacity;

use super::Info;
use crate::diffusion::{Sampling, SamplingStep};
use crate::models::Conditioning;
use crate::{Error, HostTensor, Result};

/// Results to keep of a generation beside the latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputSelection {
    /// Images, which need a codec.
    pub images: bool,
    /// Features that the final latents were decoded from.
    pub features: bool,
}

/// Request for a generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// Classes, or features.
    pub conditioning: Conditioning<HostTensor>,
    /// Seed of each image: with it, the image is the same alone and in any batch.
    pub seeds: Vec<u64>,
    /// Solver and guidance.
    pub sampling: Sampling,
    /// Latents [n, C, h, w], or [1, C, h, w] for all images, in place of the results of the first AR steps.
    pub references: Vec<HostTensor>,
    /// State at t = 1, [n, C, h, w], in place of the initial noise of the seeds.
    pub initial_noise: Option<HostTensor>,
    /// Number of images that are generated at a time; by default all. A larger batch takes more memory and changes no
    /// result.
    pub batch: Option<NonZeroUsize>,
    /// Results to keep.
    pub outputs: OutputSelection,
}

impl Request {
    /// One image per class, in one batch.
    pub fn new(classes: Vec<usize>, seeds: Vec<u64>, sampling: Sampling) -> Self {
        Self {
            conditioning: Conditioning::Classes(classes),
            seeds,
            sampling,
            references: Vec::new(),
            initial_noise: None,
            batch: None,
            outputs: OutputSelection::default(),
        }
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        match &self.conditioning {
            Conditioning::Classes(classes) => classes.len(),
            Conditioning::Features { features, .. } => features.shape().first().copied().unwrap_or(0),
        }
    }

    /// Checks the request against the pipeline, before anything is computed.
    pub(super) fn check(&self, info: &Info) -> Result<()> {
        let n = self.images();
        if n == 0 {
            return Err(Error::argument("images", "at least one", 0));
        }
        if self.seeds.len() != n {
            return Err(Error::argument("seeds", format!("{n}, one per image"), self.seeds.len()));
        }
        match &self.conditioning {
            Conditioning::Classes(classes) => info.generator.check_labels(classes)?,
            Conditioning::Features { features, unconditional } => {
                self.check_features(info, features, unconditional.as_ref())?;
            }
        }
        check_references(info, &[1, n], &self.references)?;
        if let Some(noise) = &self.initial_noise {
            check_latents(info, &[n], "initial_noise", noise)?;
        }
        if self.outputs.images {
            info.require_image_size()?;
        }
        Ok(())
    }

    fn check_features(
        &self,
        info: &Info,
        features: &HostTensor,
        unconditional: Option<&HostTensor>,
    ) -> Result<()> {
        let expected = info.generator.feature_shape()?;
        for (name, tensor) in [("features", Some(features)), ("unconditional", unconditional)] {
            let Some(tensor) = tensor else { continue };
            match tensor.shape() {
                &[_, k, d] if d == expected.width && (1..=expected.count).contains(&k) => {
                    check_values(name, tensor)?;
                }
                other => {
                    let expected = format!("{name} [n, 1..={}, {}]", expected.count, expected.width);
                    return Err(Error::shape("generate", expected, other));
                }
            }
        }
        if let Some(unconditional) = unconditional {
            let (got, want) = (unconditional.shape(), features.shape());
            if (got[0] != 1 && got[0] != want[0]) || got[1] != want[1] {
                let expected = format!("unconditional features of 1 or {} × {}", want[0], want[1]);
                return Err(Error::shape("generate", expected, got));
            }
        } else if self.sampling.is_guided() && features.shape()[1] > expected.per_ar_step {
            let expected =
                "unconditional features, because guidance is above 1 and the features span several AR steps";
            return Err(Error::argument("unconditional", expected, "none"));
        }
        if !self.references.is_empty() {
            let expected = "none where features are given";
            return Err(Error::argument("references", expected, self.references.len()));
        }
        Ok(())
    }

    /// Images of the batch that begins at image `start`; none behind the last image.
    pub(super) fn batch_from(&self, start: usize) -> Option<Range<usize>> {
        let n = self.images();
        let size = self.batch.map_or(n, NonZeroUsize::get);
        (start < n).then(|| start..n.min(start.saturating_add(size)))
    }
}

/// Results of a request; tensors are f32.
#[derive(Clone, Debug)]
pub struct Output {
    /// [n, C, h, w], in the scale of the model.
    pub latents: HostTensor,
    /// Latents [n, C, h, w] of the earlier AR steps, given ones included; empty if there is only one AR step.
    pub references: Vec<HostTensor>,
    /// [n, k, D], if selected.
    pub features: Option<HostTensor>,
    /// [n, c, H, W], c being the codec's 1 or 3 colour channels, about in [-1, 1], if selected.
    pub images: Option<HostTensor>,
}

impl Output {
    /// The results of consecutive batches, joined.
    pub(super) fn concat(mut parts: Vec<Self>) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let steps = parts.first().map_or(0, |part| part.references.len());
        Ok(Self {
            latents: concat(parts.iter().map(|part| &part.latents).collect())?,
            references: (0..steps)
                .map(|i| concat(parts.iter().filter_map(|part| part.references.get(i)).collect()))
                .collect::<Result<_>>()?,
            features: concat_optional(parts.iter().map(|part| part.features.as_ref()))?,
            images: concat_optional(parts.iter().map(|part| part.images.as_ref()))?,
        })
    }
}

/// Progress of a request after a completed sampling step.
pub struct Progress<'a> {
    /// Images of the batch that is being generated.
    pub images: Range<usize>,
    /// The completed step of that batch.
    pub step: SamplingStep,
    /// Completed share of the whole request, in (0, 1].
    pub fraction: f64,
    pub(super) preview: &'a dyn Fn() -> Result<HostTensor>,
}

impl Progress<'_> {
    /// Prediction [b, C, h, w] of the batch's latents at this step. Computed on demand.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn preview(&self) -> Result<HostTensor> {
        (self.preview)()
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("images", &self.images)
            .field("step", &self.step)
            .field("fraction", &self.fraction)
            .finish_non_exhaustive()
    }
}

/// Checks references for a number of images that is one of `images`.
pub(super) fn check_references(info: &Info, images: &[usize], references: &[HostTensor]) -> Result<()> {
    references.iter().try_for_each(|latents| check_latents(info, images, "references", latents))
}

fn check_latents(info: &Info, images: &[usize], what: &'static str, latents: &HostTensor) -> Result<()> {
    if !images.iter().any(|&n| latents.shape() == info.generator.codes_shape(n)) {
        let n = images.last().copied().unwrap_or(0);
        let expected = format!("{what} {:?}", info.generator.codes_shape(n));
        return Err(Error::shape("generate", expected, latents.shape()));
    }
    check_values(what, latents)
}

pub(super) fn check_values(what: &'static str, tensor: &HostTensor) -> Result<()> {
    if tensor.data().is_finite() {
        Ok(())
    } else {
        Err(Error::argument(what, "finite values", "a NaN or an infinity"))
    }
}

/// Elements of a tensor that is in host memory as f32.
fn elements(tensor: &HostTensor) -> Result<&[f32]> {
    let wrong = || Error::DType { op: "pipeline", expected: "f32".into(), got: tensor.dtype() };
    tensor.as_f32().ok_or_else(wrong)
}

/// The images `range` of a tensor [n, ..].
pub(super) fn rows<'a>(tensor: &'a HostTensor, range: &Range<usize>) -> Result<Cow<'a, HostTensor>> {
    let n = tensor.shape()[0];
    if *range == (0..n) {
        return Ok(Cow::Borrowed(tensor));
    }
    let all = elements(tensor)?;
    let each = all.len() / n;
    let mut part = try_with_capacity("pipeline", range.len() * each)?;
    part.extend_from_slice(&all[range.start * each..range.end * each]);
    let shape = [&[range.len()], &tensor.shape()[1..]].concat();
    Ok(Cow::Owned(HostTensor::f32(&shape, part)?))
}

/// Tensors that every batch has, joined, or none.
fn concat_optional<'a>(parts: impl Iterator<Item = Option<&'a HostTensor>>) -> Result<Option<HostTensor>> {
    parts.collect::<Option<Vec<_>>>().map(concat).transpose()
}

fn concat(parts: Vec<&HostTensor>) -> Result<HostTensor> {
    let mut shape = parts[0].shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let mut all = try_with_capacity("pipeline", parts.iter().map(|part| part.data().len()).sum())?;
    for part in parts {
        all.extend_from_slice(elements(part)?);
    }
    HostTensor::f32(&shape, all)
}
