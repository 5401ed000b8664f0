//! From files to a pipeline.

use std::sync::Arc;

use super::Pipeline;
use super::on_device::OnDevice;
use super::pixels::CHANNELS;
use crate::checkpoint::WeightFile;
use crate::models::transdiff::Preset;
use crate::models::transdiff::{LoadHints, StoredTransDiff, TransDiffConfig, WeightSet};
use crate::models::vae::{StoredVae, Vae, VaeConfig};
use crate::nn::Module;
use crate::{Backend, DType, Device, DeviceTask, Error, Result};

/// How a pipeline is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// The type that model and VAE compute in; samplers compute in f32.
    pub dtype: DType,
    /// Threads of the CPU; one a core, if it is not given.
    pub threads: Option<usize>,
    /// What the model's file does not say.
    pub hints: LoadHints,
}

impl Default for LoadOptions {
    /// The best device of this build and this machine, f32, a thread a core.
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
    pub config: TransDiffConfig,
    /// Which of the file's weights were taken.
    pub weights: WeightSet,
    /// The device's name, for people.
    pub device: String,
    /// The type that model and VAE compute in.
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
    let level = if device.is_substitute() { LogLevel::Warning } else { LogLevel::Info };
    log(level, &format!("device: {}", device.choice()));
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
        let source = StoredTransDiff::find(self.model, &self.options.hints)?;
        (self.log)(
            LogLevel::Info,
            &format!("{}: {}", self.model.path().display(), described(source.weights())),
        );
        let vae = self.vae.map(StoredVae::find).transpose()?;
        if let Some(vae) = &vae {
            check_match(source.config(), vae.config())?;
        }
        let model = source.load(&backend, dtype)?;
        let vae: Option<Vae<B>> = vae.map(|vae| vae.load(&backend, dtype)).transpose()?;
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
        Ok(Pipeline { model: Arc::new(OnDevice { model, vae }), info: Arc::new(info) })
    }
}

fn described(weights: WeightSet) -> &'static str {
    match weights {
        WeightSet::Ema => "the weights averaged over training",
        WeightSet::Raw => "the weights of the last training step",
        WeightSet::Single => "its only weights",
    }
}

/// A VAE of other channels would decode nonsense, or nothing, and images are of three colours.
pub(super) fn check_match(config: &TransDiffConfig, vae: &VaeConfig) -> Result<()> {
    if vae.image_channels != CHANNELS {
        return Err(Error::config("image_channels", CHANNELS.to_string(), vae.image_channels));
    }
    let channels = vae.latent_channels;
    if channels == config.latent_channels {
        return Ok(());
    }
    let expected = format!("{channels}, as the VAE has");
    Err(Error::config("latent_channels", expected, config.latent_channels))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ops::ControlFlow;

    use super::*;
    use crate::HostTensor;
    use crate::TransDiff;
    use crate::diffusion::{Euler, Guidance, Interpolant, Timesteps};
    use crate::models::transdiff::{Mode, Sampling};
    use crate::pipeline::{Output, PipelineSession, Request, Source, Wanted};
    use crate::reference::Reference;

    fn files() -> [WeightFile; 2] {
        let config = TransDiffConfig {
            width: 8,
            heads: 2,
            encoder_blocks: 1,
            decoder_blocks: 1,
            mlp_ratio: 2,
            classes: 3,
            buffer_size: 2,
            feature_tokens: 4,
            latent_channels: 2,
            latent_size: 2,
            mode: Mode::MultiReference { groups: 4 },
        };
        let vae = VaeConfig {
            image_channels: 3,
            latent_channels: 2,
            channels: 32,
            multipliers: vec![1, 1],
            res_blocks: 1,
            attention: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        let mut model = TransDiff::new(&Reference, &config, DType::F32, 1).unwrap();
        for (_, param) in model.params_mut() {
            // The last layer begins with zeros, which give no velocity.
            let moved = param.value().affine(1.0, 0.1).unwrap();
            param.set(&moved).unwrap();
        }
        let [model_path, vae_path] = ["model", "vae"].map(|name| folder.path().join(name));
        model.save(&model_path).unwrap();
        Vae::new(&Reference, &vae, DType::F32, 5).unwrap().save(&vae_path).unwrap();
        [model_path, vae_path]
            .map(|path| WeightFile::from_bytes("in memory", std::fs::read(path).unwrap()).unwrap())
    }

    fn session(dtype: DType) -> PipelineSession {
        let [model, vae] = files();
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let load = Load { model: &model, vae: Some(&vae), options: &options, log: &mut |_, _| () };
        load.run(Reference).unwrap().session()
    }

    fn generate(session: &mut PipelineSession, request: &Request) -> Output {
        session
            .generate(request, &mut |step| {
                assert_eq!(step.preview().unwrap().dtype(), DType::F32);
                ControlFlow::Continue(())
            })
            .unwrap()
    }

    #[track_caller]
    fn assert_near(got: &HostTensor, want: &HostTensor) {
        assert_eq!((got.dtype(), got.shape()), (DType::F32, want.shape()));
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let (got, want) = (got.to_f64(), want.to_f64());
        let error = length(&mut got.iter().zip(&want).map(|(g, w)| g - w)) / length(&mut want.into_iter());
        // Weights are off by up to 2⁻⁸, and not by nothing.
        assert!((1e-6..0.03).contains(&error), "off by {error}");
    }

    /// What goes in and comes out is f32, whatever model and VAE compute in. The oracle computes in bf16 too.
    #[test]
    fn bf16_stays_near_f32() {
        let [mut wide, mut narrow] = [DType::F32, DType::BF16].map(session);
        let solver = Euler { timesteps: Timesteps::uniform(3).unwrap(), interpolant: Interpolant::Linear };
        let sampling = Sampling::new(solver, Guidance::new(1.4).unwrap());
        let wanted = Wanted { images: true, features: true };
        let request = Request { wanted, ..Request::new(vec![0, 2], vec![3, 4], sampling) };
        let want = generate(&mut wide, &request);
        let got = generate(&mut narrow, &request);
        assert_near(&got.latents, &want.latents);
        assert_near(got.images.as_ref().unwrap(), want.images.as_ref().unwrap());
        assert_near(got.features.as_ref().unwrap(), want.features.as_ref().unwrap());

        // From what was given and not computed, in batches.
        let references = want.references[..2].to_vec();
        let batch = NonZeroUsize::new(1);
        let given = Request { references, starting: Some(want.latents.clone()), batch, ..request.clone() };
        let (got, again) = (generate(&mut narrow, &given), generate(&mut wide, &given));
        assert_near(&got.images.unwrap(), &again.images.unwrap());
        assert_eq!(got.references[..2], want.references[..2]);
        let unconditional = Some(wide.unconditional_features(2, &want.references).unwrap());
        let source = Source::Features { features: want.features.clone().unwrap(), unconditional };
        let decoding = Request { source, ..request };
        let (got, again) = (generate(&mut narrow, &decoding), generate(&mut wide, &decoding));
        assert_near(&got.latents, &again.latents);

        let images = want.images.unwrap();
        for seeds in [None, Some(&[5, 6][..])] {
            let [got, want] = [&mut narrow, &mut wide].map(|s| s.encode(&images, seeds).unwrap());
            assert_near(&got, &want);
        }
        let [got, want] = [&mut narrow, &mut wide].map(|s| s.decode(&want.latents).unwrap());
        assert_near(&got, &want);
    }
}
