//! Workloads of whole models: a preset and the published KL-VAE, on any backend, with random weights.
//!
//! Time does not depend on the values of random weights: no subnormal numbers occur. Weights of zeros would not do, because a GPU
//! multiplies them faster.

pub mod flops;

use std::sync::Arc;

use transdiff::autograd::{Context, Var};
use transdiff::data::{DataLoader, LoaderOptions, MemoryDataset};
use transdiff::diffusion::{KeyedNoise, NoopObserver, Preset, Sampling, SamplingSettings};
use transdiff::models::Model;
use transdiff::models::transdiff::{
    Condition, FlowObjective, Mode, SampleDraws, Session, Size, TimeEmbedding, TransDiff, TransDiffConfig,
};
use transdiff::models::vae::{Vae, VaeConfig};
use transdiff::rng::{Purpose, StreamKey};
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{Backend, CancellationToken, DType, HostTensor, Precision, Result, Tensor};

/// Default number of samples per training step.
pub const TRAIN_BATCH: usize = 2;
/// Noised copies per sample.
pub const TRAIN_MUL: usize = 4;

/// Normal values, the same in every run.
pub fn noise<B: Backend>(backend: &B, shape: &[usize], dtype: DType, index: u32) -> Result<Tensor<B>> {
    let values = StreamKey::new(0, Purpose::TrainingNoise, index, 0).normals(shape.iter().product());
    Tensor::from_f32(backend, shape, values, dtype)
}

/// A model of random weights that are cheap to draw: hundreds of millions of normal values take longer than the passes to be
/// timed on a GPU. Weights are uniform with variance 1 / fan-in, scales of norms are 1, and biases 0.
pub fn random<B: Backend, M: Model<B>>(backend: &B, config: &M::Config, precision: Precision) -> Result<M> {
    let mut model = M::placeholder(backend, config, precision)?;
    for (seed, (name, param)) in (0..).zip(model.params_mut()) {
        let shape = param.value().shape().to_vec();
        let count = shape.iter().product();
        let values = match shape.get(1..) {
            Some(inputs) if !inputs.is_empty() => {
                let inputs: usize = inputs.iter().product();
                uniform(seed, (3.0 / inputs as f32).sqrt(), count)
            }
            _ => vec![if name.ends_with("weight") { 1.0 } else { 0.0 }; count],
        };
        param.set_host(HostTensor::f32(&shape, values)?)?;
    }
    Ok(model)
}

/// Values uniform within ±`bound`, the same in every run, in about 1 ns each.
///
/// The generator is SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
fn uniform(seed: u64, bound: f32, count: usize) -> Vec<f32> {
    let value = |i: u64| {
        let state = (seed << 40).wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The highest 24 bits, which f32 represents exactly.
        let bits = (mixed ^ (mixed >> 31)) >> 40;
        bound * (bits as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count as u64).map(value).collect()
}

/// Base preset for 256 px, 1-step, in f32.
pub fn base<B: Backend>(backend: &B) -> Result<TransDiff<B>> {
    TransDiff::new(backend, &TransDiffConfig::published(Size::Base, 256, Mode::OneStep)?, DType::F32, 0)
}

/// Runs the AR transformer on `sequences` sequences. Guidance takes two per image; a session caches the unconditional
/// one and then needs one.
pub fn features<B: Backend>(model: &TransDiff<B>, sequences: usize) -> Result<()> {
    let labels: Vec<usize> = (0..sequences).map(|i| i % model.config().classes).collect();
    model.features(&model.inference(), &labels, &[])?;
    Ok(())
}

/// Decoder evaluation of a sampling step with guidance, as in sampling: the condition and the time embedding are
/// precomputed, and a device that captures graphs launches a graph.
pub struct DecoderStep<'a, B: Backend> {
    model: &'a TransDiff<B>,
    x: Var<B>,
    time: TimeEmbedding<B>,
    condition: Condition<B>,
    graph: Option<B::Graph>,
}

impl<'a, B: Backend> DecoderStep<'a, B> {
    pub fn new(model: &'a TransDiff<B>, batch: usize) -> Result<Self> {
        let mut step = Self::eager(model, batch)?;
        // One-time preparations of the device must not be captured.
        step.evaluate()?;
        step.graph = model.backend().capture(&mut || step.evaluate())?;
        Ok(step)
    }

    /// Like [`new`](Self::new), but never with a graph.
    pub fn eager(model: &'a TransDiff<B>, batch: usize) -> Result<Self> {
        let (config, backend) = (model.config(), model.backend());
        let labels: Vec<usize> = (0..batch).map(|i| i % config.classes).collect();
        let ctx = model.inference();
        let unconditional =
            model.condition(&ctx, &model.unconditional_features(&ctx, &[])?)?.repeated(batch)?;
        let condition = model.condition(&ctx, &model.features(&ctx, &labels, &[])?)?.and(&unconditional)?;
        let shape = [batch, config.decoder_tokens(), config.latent_channels];
        let time = model.decoder().time(&Context::inference(), &[500.0])?;
        let x = Var::from(noise(backend, &shape, model.dtype(), 0)?);
        Ok(Self { model, x, time, condition, graph: None })
    }

    fn evaluate(&self) -> Result<()> {
        self.model.decoder().velocity(&Context::inference(), &self.x, &self.time, &self.condition)?;
        Ok(())
    }

    pub fn run(&self) -> Result<()> {
        match &self.graph {
            Some(graph) => self.model.backend().launch(graph),
            None => self.evaluate(),
        }
    }
}

/// Training steps with the paper's settings.
pub struct Training<B: Backend> {
    trainer: Trainer<B>,
    data: DataLoader<SampleDraws>,
}

impl<B: Backend> Training<B> {
    /// Training with `batch` samples per step and the compute type `compute`.
    pub fn new(model: TransDiff<B>, batch: usize, compute: DType) -> Result<Self> {
        let config = model.config();
        let shape = [config.latent_channels, config.latent_size, config.latent_size];
        let images = 8.min(config.classes);
        let values = StreamKey::new(0, Purpose::TrainingNoise, 1, 0);
        let values = values.normals(images * shape.iter().product::<usize>());
        let dataset = MemoryDataset::new(shape, values, (0..images).collect())?;
        let config = TrainConfig {
            compute,
            objective: FlowObjective { batch_mul: TRAIN_MUL, ..FlowObjective::default() },
            ..TrainConfig::new(batch, 1000)
        };
        let trainer = Trainer::new(model, config)?;
        // A thread draws samples and noise ahead, as in `transdiff train`.
        let loading = LoaderOptions { threads: 1, ahead: 2 * batch, ..LoaderOptions::default() };
        let data = trainer.loader(Arc::new(dataset), loading)?;
        Ok(Self { trainer, data })
    }

    pub fn run(&mut self) -> Result<()> {
        self.trainer.step(&mut self.data).map(drop)
    }
}

/// Preset of the published model with these sizes; the base preset for any other.
pub fn preset(config: &TransDiffConfig) -> Preset {
    config.preset().unwrap_or(Preset::BASE)
}

/// Generation with guidance, from labels to latents.
pub fn sample<B: Backend>(session: &mut Session<B>, batch: usize, steps: usize) -> Result<()> {
    let preset = preset(session.model().config());
    generate(session, batch, &SamplingSettings::from(preset).with_steps(steps).build(1)?)
}

/// Generation, from labels to latents.
pub fn generate<B: Backend>(session: &mut Session<B>, batch: usize, sampling: &Sampling) -> Result<()> {
    let config = session.model().config();
    let labels: Vec<usize> = (0..batch).map(|i| i % config.classes).collect();
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let mut noise = KeyedNoise::new(session.model().backend(), DType::F32, &seeds);
    session.generate(&labels, &[], sampling, &mut noise, &mut NoopObserver)?;
    Ok(())
}

/// KL-VAE of the published size, with latents and images.
pub struct Codec<B: Backend> {
    vae: Vae<B>,
    latents: Tensor<B>,
    images: Tensor<B>,
}

impl<B: Backend> Codec<B> {
    /// Random weights and inputs for `batch` images of side `resolution`.
    pub fn new(backend: &B, batch: usize, resolution: usize, dtype: DType) -> Result<Self> {
        let vae = random::<B, Vae<B>>(backend, &VaeConfig::published(), dtype.into())?;
        let (config, side) = (vae.config(), resolution / vae.downsampling());
        let latents = noise(backend, &[batch, config.latent_channels, side, side], dtype, 0)?;
        let images = noise(backend, &[batch, config.image_channels, resolution, resolution], dtype, 1)?;
        Ok(Self { vae, latents, images })
    }

    pub fn decode(&self) -> Result<()> {
        self.vae.decode(&self.latents, &CancellationToken::new()).map(drop)
    }

    pub fn encode(&self) -> Result<()> {
        self.vae.encode(&self.images, &CancellationToken::new()).map(drop)
    }
}
