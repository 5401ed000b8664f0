//! From files to a pipeline.

use std::sync::Arc;

use super::Pipeline;
use super::on_device::OnDevice;
use crate::model::{LoadHints, ModelConfig, ModelSource, Weights};
use crate::nn::Module;
use crate::sampler::Preset;
use crate::vae::{Vae, VaeConfig, VaeSource};
use crate::weights::WeightFile;
use crate::{Backend, DType, Device, DeviceTask, Error, Result};

/// How a pipeline is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// The type that the model computes in; samplers and the VAE compute in f32.
    pub dtype: DType,
    /// Threads of the CPU; one a core, if it is not given.
    pub threads: Option<usize>,
    /// What the model's file does not say.
    pub hints: LoadHints,
}

impl Default for LoadOptions {
    /// The best device of this build, f32, a thread a core.
    fn default() -> Self {
        Self { device: Device::Auto, dtype: DType::F32, threads: None, hints: LoadHints::default() }
    }
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What was chosen, and why.
    Info,
    /// What the caller would probably want otherwise.
    Warning,
}

/// What a pipeline is.
#[derive(Clone, Debug)]
pub struct Info {
    /// The sizes of the model.
    pub config: ModelConfig,
    /// Which of the file's weights were taken.
    pub weights: Weights,
    /// The device's name, for people.
    pub device: String,
    /// The type that the model computes in.
    pub dtype: DType,
    /// Number of values in the model's parameters, the VAE's not included.
    pub parameters: usize,
    /// The VAE, if one was loaded.
    pub vae: Option<VaeInfo>,
}

/// What a pipeline's VAE is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaeInfo {
    /// Number of values in its parameters.
    pub parameters: usize,
    /// Pixels of an image for one position of its latent, in both directions.
    pub downsampling: usize,
}

impl Info {
    /// Height and width of the images, if there is a VAE.
    pub fn image_size(&self) -> Option<usize> {
        self.vae.as_ref().map(|vae| vae.downsampling * self.config.latent_size)
    }

    /// The settings with which the paper reports results of a model of these sizes; [`Preset::PLAIN`] for others.
    pub fn preset(&self) -> Preset {
        Preset::of(&self.config).unwrap_or(Preset::PLAIN)
    }

    /// Height and width of the images, which take a VAE.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none.
    pub fn vae_image_size(&self) -> Result<usize> {
        self.image_size().ok_or_else(no_vae)
    }
}

pub(super) fn no_vae() -> Error {
    Error::argument("images", "a pipeline with a VAE", "one without, which has latents only")
}

pub(super) fn load(
    model: &WeightFile,
    vae: Option<&WeightFile>,
    options: &LoadOptions,
    log: &mut dyn FnMut(LogLevel, &str),
) -> Result<Pipeline> {
    let device = options.device.open(options.threads)?;
    log(LogLevel::Info, &format!("device: {}", device.choice()));
    device.run(Load { model, vae, options, log })
}

struct Load<'a> {
    model: &'a WeightFile,
    vae: Option<&'a WeightFile>,
    options: &'a LoadOptions,
    log: &'a mut dyn FnMut(LogLevel, &str),
}

impl DeviceTask for Load<'_> {
    type Output = Pipeline;

    fn run<B: Backend>(self, backend: B) -> Result<Pipeline> {
        let dtype = self.options.dtype;
        if !(dtype.is_float() && backend.supports(dtype)) {
            let expected = format!("a type that {} computes in", backend.name());
            return Err(Error::DType { op: "Pipeline::load", expected, got: dtype });
        }
        let source = ModelSource::find(self.model, &self.options.hints)?;
        (self.log)(
            LogLevel::Info,
            &format!("{}: {}", self.model.path().display(), described(source.weights())),
        );
        let vae = self.vae.map(VaeSource::find).transpose()?;
        if let Some(vae) = &vae {
            check_match(source.config(), vae.config())?;
        }
        let model = source.load(&backend, dtype)?;
        let vae: Option<Vae<B>> = vae.map(|vae| vae.load(&backend, DType::F32)).transpose()?;
        let info = Info {
            config: model.config().clone(),
            weights: source.weights(),
            device: backend.name(),
            dtype,
            parameters: model.param_count(),
            vae: vae.as_ref().map(|vae| VaeInfo {
                parameters: vae.param_count(),
                downsampling: vae.config().downsampling(),
            }),
        };
        Ok(Pipeline { model: Arc::new(OnDevice { model, vae, dtype }), info: Arc::new(info) })
    }
}

fn described(weights: Weights) -> &'static str {
    match weights {
        Weights::Ema => "the weights averaged over training",
        Weights::Model => "the weights of the last training step",
        Weights::Sole => "its only weights",
    }
}

/// A VAE of other channels would decode nonsense, or nothing.
pub(super) fn check_match(config: &ModelConfig, vae: &VaeConfig) -> Result<()> {
    let channels = vae.latent_channels;
    if channels == config.latent_channels {
        return Ok(());
    }
    let expected = format!("{channels}, as the VAE has");
    Err(Error::config("latent_channels", expected, config.latent_channels))
}
