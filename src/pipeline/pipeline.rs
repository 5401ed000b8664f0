//! A generator and a codec on a device.

use std::sync::Arc;

use super::device_session::{DeviceModel, OnDevice};
use super::info::{Info, check_match};
use super::session::PipelineSession;
use crate::models::{ClassNames, Codec, Generator, ImageSpec, WeightSet};
use crate::{Backend, Result};

/// A generator, and possibly a codec, on a device. It is immutable, and clones share it: any number of sessions use one,
/// on any threads.
#[derive(Clone, Debug)]
pub struct Pipeline {
    model: Arc<dyn DeviceModel>,
    info: Arc<Info>,
}

impl Pipeline {
    /// A pipeline of a generator and possibly a codec that are loaded already, of this library or the caller's own.
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) if they do not match.
    pub fn new<B: Backend>(
        generator: Box<dyn Generator<B>>,
        codec: Option<Box<dyn Codec<B>>>,
        weights: WeightSet,
    ) -> Result<Self> {
        Self::with_images(generator, codec, weights, None)
    }

    /// A pipeline as [`new`](Self::new) makes it, of a model whose images are described.
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) if they do not match.
    pub fn with_images<B: Backend>(
        generator: Box<dyn Generator<B>>,
        codec: Option<Box<dyn Codec<B>>>,
        weights: WeightSet,
        images: Option<ImageSpec>,
    ) -> Result<Self> {
        if let Some(images) = &images {
            images.check(generator.info())?;
        }
        let names = images.as_ref().map_or(&[][..], |images| &images.classes);
        let codec: Option<Arc<dyn Codec<B>>> = codec.map(Arc::from);
        let info = Info {
            generator: generator.info().clone(),
            codec: codec.as_ref().map(|codec| codec.info()),
            class_names: ClassNames::new(generator.info().classes, names)?,
            images,
            weights,
            device: generator.backend().name(),
            precision: generator.precision(),
            param_count: generator.param_count(),
            codec_param_count: codec.as_ref().map_or(0, |codec| codec.param_count()),
        };
        if let Some(codec) = &info.codec {
            check_match(&info.generator, codec)?;
        }
        Ok(Self { model: Arc::new(OnDevice::new(generator, codec)), info: Arc::new(info) })
    }

    /// Description of the pipeline.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A session for one caller.
    pub fn session(&self) -> PipelineSession {
        PipelineSession::new(self.model.session(), Arc::clone(&self.info))
    }
}
