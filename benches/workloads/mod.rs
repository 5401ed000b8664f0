//! What is timed of a whole model: the base preset and the published autoencoder with random weights, f32, on the CPU.
//!
//! Time does not depend on the weights' values: no kernel skips zeros, and none meets subnormal numbers here.

use std::ops::ControlFlow;

use transdiff::autograd::Var;
use transdiff::data::MemorySet;
use transdiff::model::{Condition, Mode, ModelConfig, Sampling, Session, Size, TimeEmbedding, TransDiff};
use transdiff::nn::Context;
use transdiff::rng::{Purpose, StreamKey};
use transdiff::sampler::{KeyedNoise, Preset, Silent};
use transdiff::train::{TrainConfig, Trainer};
use transdiff::vae::{Vae, VaeConfig};
use transdiff::{Cpu, DType, Result, Tensor};

/// Samples of a training step.
pub const TRAIN_BATCH: usize = 2;
/// Noised copies of each.
pub const TRAIN_MUL: usize = 4;

/// Random values, the same in every run.
pub fn noise(backend: &Cpu, shape: &[usize], index: u32) -> Result<Tensor<Cpu>> {
    let values = StreamKey::new(0, Purpose::TrainingNoise, index, 0).normals(shape.iter().product());
    Tensor::from_f32(backend, shape, values, DType::F32)
}

/// The base preset for 256 px, 1-step.
pub fn base(backend: &Cpu) -> Result<TransDiff<Cpu>> {
    TransDiff::new(backend, &ModelConfig::preset(Size::Base, 256, Mode::OneStep)?, DType::F32, 0)
}

/// The autoregressive transformer on `sequences` sequences. Guidance takes two an image; a session keeps the
/// unconditional one and then needs one.
pub fn features(model: &TransDiff<Cpu>, sequences: usize) -> Result<()> {
    let labels: Vec<usize> = (0..sequences).collect();
    model.features(&labels, &[])?;
    Ok(())
}

/// A step of the decoder with guidance, as sampling makes it: keys and values of the cross-attentions and the
/// embedding of the time are computed beforehand.
pub struct DecoderStep<'a> {
    model: &'a TransDiff<Cpu>,
    x: Var<Cpu>,
    time: TimeEmbedding<Cpu>,
    condition: Condition<Cpu>,
}

impl<'a> DecoderStep<'a> {
    pub fn new(model: &'a TransDiff<Cpu>, batch: usize) -> Result<Self> {
        let config = model.config();
        let labels: Vec<usize> = (0..batch).collect();
        let without_class = model.condition(&model.unconditional_features(&[])?)?.repeated(batch)?;
        let condition = model.condition(&model.features(&labels, &[])?)?.and(&without_class)?;
        let shape = [2 * batch, config.decoder_tokens(), config.latent_channels];
        let time = model.decoder().time(&Context::inference(), &[500.0])?;
        Ok(Self { model, x: Var::from(noise(model.backend(), &shape, 0)?), time, condition })
    }

    pub fn run(&self) -> Result<()> {
        self.model.decoder().velocity(&Context::inference(), &self.x, &self.time, &self.condition)?;
        Ok(())
    }
}

/// Training steps with the paper's settings.
pub struct Training {
    trainer: Trainer<Cpu>,
    set: MemorySet,
}

impl Training {
    pub fn new(model: TransDiff<Cpu>) -> Result<Self> {
        let config = model.config();
        let shape = [config.latent_channels, config.latent_size, config.latent_size];
        let images = 8;
        let values = noise(model.backend(), &[images, shape.iter().product()], 1)?.to_f32()?;
        let set = MemorySet::new(shape, values, (0..images).collect())?;
        let config = TrainConfig { batch_mul: TRAIN_MUL, ..TrainConfig::new(TRAIN_BATCH, 1000) };
        Ok(Self { trainer: Trainer::new(model, config)?, set })
    }

    pub fn run(&mut self) -> Result<()> {
        self.trainer.step(&self.set).map(drop)
    }
}

/// Generation with guidance, from labels to latents.
pub fn sample(session: &mut Session<Cpu>, batch: usize, steps: usize) -> Result<()> {
    let labels: Vec<usize> = (0..batch).collect();
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let sampling = Sampling::new(Preset::BASE.sampler(steps)?, Preset::BASE.guidance()?);
    let mut noise = KeyedNoise::new(session.model().backend(), DType::F32, &seeds);
    session.generate(&labels, &[], &sampling, &mut noise, &mut Silent)?;
    Ok(())
}

/// The autoencoder of the published size, its latents and its images.
pub struct Autoencoder {
    vae: Vae<Cpu>,
    latents: Tensor<Cpu>,
    images: Tensor<Cpu>,
}

impl Autoencoder {
    /// For `batch` images of side `resolution`.
    pub fn new(backend: &Cpu, batch: usize, resolution: usize) -> Result<Self> {
        let vae = Vae::new(backend, &VaeConfig::published(), DType::F32, 0)?;
        let (config, side) = (vae.config(), resolution / vae.downsampling());
        let latents = noise(backend, &[batch, config.latent_channels, side, side], 0)?;
        let images = noise(backend, &[batch, config.image_channels, resolution, resolution], 1)?;
        Ok(Self { vae, latents, images })
    }

    pub fn decode(&self) -> Result<()> {
        self.vae.decode(&self.latents, &mut || ControlFlow::Continue(())).map(drop)
    }

    pub fn encode(&self) -> Result<()> {
        self.vae.encode(&self.images, &mut || ControlFlow::Continue(())).map(drop)
    }
}
