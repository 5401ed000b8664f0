//! Loading a pipeline from files.

use super::info::check_match;
use super::pipeline::Pipeline;
use crate::checkpoint::WeightFile;
use crate::models::{CodecFile, LoadHints, StoredModel};
use crate::{Backend, DType, Device, DeviceTask, Error, Precision, Result};

/// Options of [`Pipeline::load`].
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Device to compute on.
    pub device: Device,
    /// Number format that the model computes in; the codec computes in its type of tensors, samplers in f32.
    pub precision: Precision,
    /// Number of CPU threads; by default one per core.
    pub threads: Option<usize>,
    /// Information that the model's file may lack.
    pub hints: LoadHints,
    /// Loads no codec, even if the model's file describes one.
    pub latents_only: bool,
}

impl Default for LoadOptions {
    /// The best device of this build and machine, f32, one thread per core.
    fn default() -> Self {
        Self {
            device: Device::Auto,
            precision: DType::F32.into(),
            threads: None,
            hints: LoadHints::default(),
            latents_only: false,
        }
    }
}

/// Severity of a log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// A choice, and its reason.
    Info,
    /// Something that the caller probably did not intend.
    Warning,
}

impl Pipeline {
    /// Loads `model`, and a codec for images: `codec`, or else the one that the model's file describes. Without either, only
    /// latents are available. `log` receives what was chosen and why.
    ///
    /// # Errors
    /// [`Unavailable`](Error::Unavailable) for a device that is not there, [`DType`](Error::DType) for a type in which it
    /// does not compute, [`Argument`](Error::Argument) for 8-bit integers if it has no products of them, [`Config`](Error::Config) if model and codec do not match, and those of [`StoredModel`] and
    /// [`CodecFile`].
    pub fn load(
        model: &WeightFile,
        codec: Option<&CodecFile>,
        options: &LoadOptions,
        log: &mut dyn FnMut(LogLevel, &str),
    ) -> Result<Self> {
        let device = options.device.open(options.threads)?;
        let level = if device.is_substitute() { LogLevel::Warning } else { LogLevel::Info };
        log(level, &format!("device: {}", device.choice()));
        device.run(Load { model, codec, options, log })
    }
}

struct Load<'a> {
    model: &'a WeightFile,
    codec: Option<&'a CodecFile>,
    options: &'a LoadOptions,
    log: &'a mut dyn FnMut(LogLevel, &str),
}

impl DeviceTask for Load<'_> {
    type Output = Pipeline;

    fn run<B: Backend>(self, backend: B) -> Result<Pipeline> {
        let precision = self.options.precision;
        let dtype = precision.dtype();
        if !(dtype.is_float() && backend.supports(dtype)) {
            let expected = format!("a type that {} computes in", backend.name());
            return Err(Error::DType { op: "Pipeline::load", expected, got: dtype });
        }
        let model = StoredModel::find(self.model, &self.options.hints)?;
        let path = self.model.path().display();
        (self.log)(LogLevel::Info, &format!("{path}: {}", model.weights().describe()));
        let opened = described_codec(self.model, &model, self.codec, self.options)?;
        let codec = self.codec.or(opened.as_ref());
        if let Some(codec) = codec {
            check_match(&model.info(), &codec.info()?)?;
        }
        let (weights, images) = (model.weights(), model.images().cloned());
        let model = model.load(&backend, precision)?;
        let codec = codec.map(|codec| codec.load(&backend, dtype)).transpose()?;
        Pipeline::with_images(model, codec, weights, images)
    }
}

/// Opens the codec that the model's file describes, unless another one is given or none is wanted.
pub(super) fn described_codec(
    file: &WeightFile,
    model: &StoredModel<'_>,
    given: Option<&CodecFile>,
    options: &LoadOptions,
) -> Result<Option<CodecFile>> {
    if given.is_some() || options.latents_only { Ok(None) } else { CodecFile::described(file, model) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ops::ControlFlow;

    use super::*;
    use crate::HostTensor;
    use crate::TransDiff;
    use crate::diffusion::{Euler, Guidance, Interpolant, Sampling, Timesteps};
    use crate::models::transdiff::{Mode, TransDiffConfig};
    use crate::models::vae::{Vae, VaeConfig};
    use crate::models::{Conditioning, Model};
    use crate::nn::Module;
    use crate::pipeline::{Output, OutputSelection, PipelineSession, Request};
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
            distilled: false,
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
            // The final layer is initialised to zero, which gives no velocity.
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
        let options = LoadOptions { precision: dtype.into(), ..LoadOptions::default() };
        let vae = vae.into();
        let load = Load { model: &model, codec: Some(&vae), options: &options, log: &mut |_, _| () };
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
        // Weights differ by up to 2⁻⁸, and they do differ.
        assert!((1e-6..0.03).contains(&error), "off by {error}");
    }

    /// Inputs and outputs are f32, whatever model and codec compute in. The reference backend supports bf16.
    #[test]
    fn bf16_stays_near_f32() {
        let [mut wide, mut narrow] = [DType::F32, DType::BF16].map(session);
        let solver = Euler::new(Timesteps::uniform(3).unwrap(), Interpolant::Linear);
        let sampling = Sampling::new(solver, Guidance::new(1.4).unwrap());
        let outputs = OutputSelection { images: true, features: true };
        let request = Request { outputs, ..Request::new(vec![0, 2], vec![3, 4], sampling) };
        let want = generate(&mut wide, &request);
        let got = generate(&mut narrow, &request);
        assert_near(&got.latents, &want.latents);
        assert_near(got.images.as_ref().unwrap(), want.images.as_ref().unwrap());
        assert_near(got.features.as_ref().unwrap(), want.features.as_ref().unwrap());

        // With given references and initial noise, in batches.
        let references = want.references[..2].to_vec();
        let batch = NonZeroUsize::new(1);
        let given =
            Request { references, initial_noise: Some(want.latents.clone()), batch, ..request.clone() };
        let (got, again) = (generate(&mut narrow, &given), generate(&mut wide, &given));
        assert_near(&got.images.unwrap(), &again.images.unwrap());
        assert_eq!(got.references[..2], want.references[..2]);
        let unconditional = Some(wide.unconditional_features(2, &want.references).unwrap());
        let conditioning = Conditioning::Features { features: want.features.clone().unwrap(), unconditional };
        let decoding = Request { conditioning, ..request };
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
