//! Models, batches and data small enough for f64 and for thousands of runs.

use std::sync::Arc;

use transdiff_core::checkpoint::WeightFile;
use transdiff_core::data::{Dataset, LoaderOptions, MemoryDataset};
use transdiff_core::models::Model;
use transdiff_core::models::transdiff::{FlowBatch, FlowDraws};
use transdiff_core::models::transdiff::{Mode, TransDiff, TransDiffConfig};
use transdiff_core::models::vae::{Vae, VaeConfig};
use transdiff_core::nn::Module;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::train::{StepReport, Trainer};
use transdiff_core::{Backend, DType, HostData, HostTensor, Result, Tensor};

/// 1-step model with four feature tokens.
pub fn one_step() -> TransDiffConfig {
    TransDiffConfig {
        width: 8,
        heads: 2,
        encoder_blocks: 2,
        decoder_blocks: 2,
        mlp_ratio: 2,
        classes: 3,
        buffer_size: 2,
        feature_tokens: 4,
        latent_channels: 2,
        latent_size: 2,
        mode: Mode::OneStep,
        distilled: false,
    }
}

/// MRAR model with two groups of 2×2 tokens; references in patches of 2×2.
pub fn mrar() -> TransDiffConfig {
    let mode = Mode::MultiReference { groups: 2 };
    TransDiffConfig { feature_tokens: 8, latent_size: 4, mode, ..one_step() }
}

/// MRAR model with four groups, as the published models have, of one token each.
pub fn mrar_of_singles() -> TransDiffConfig {
    TransDiffConfig { mode: Mode::MultiReference { groups: 4 }, ..one_step() }
}

/// A model without parameters of exactly 0 or 1: the usual initialisation has a last layer of zeros, through which no
/// gradient flows.
pub fn model<B: Backend>(backend: &B, config: &TransDiffConfig, dtype: DType) -> TransDiff<B> {
    let mut model = TransDiff::placeholder(backend, config, dtype).unwrap();
    for (index, (name, param)) in model.params_mut().into_iter().enumerate() {
        let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let shape = param.value().shape().to_vec();
        let mut stream = StreamKey::new(9, Purpose::Initialisation, index as u32, 0).stream();
        let values = (0..shape.iter().product()).map(|_| centre + 0.4 * stream.normal()).collect();
        param.set_host(HostTensor::new(&shape, HostData::from_f64(values, dtype)).unwrap()).unwrap();
    }
    model
}

/// A training batch of `dropped.len()` samples, each noised `mul` times, with values drawn from `seed`.
pub fn batch<B: Backend>(model: &TransDiff<B>, dropped: &[bool], mul: usize, seed: u64) -> FlowBatch<B> {
    let (config, backend) = (model.config(), model.backend());
    let dtype = model.dtype();
    let draw = |index: usize, shape: &[usize]| {
        let values = StreamKey::new(seed, Purpose::Data, index as u32, 0).normals(shape.iter().product());
        Tensor::from_f32(backend, shape, values, dtype).unwrap()
    };
    let (images, groups) = (dropped.len(), config.groups());
    let flow = |group: usize| {
        let mut stream = StreamKey::new(seed, Purpose::Timestep, group as u32, 0).stream();
        let shape = [mul * images, config.decoder_tokens(), config.latent_channels];
        let timesteps = (0..mul * images).map(|_| f64::from(stream.below(1000))).collect();
        FlowDraws { timesteps, noise: draw(groups + group, &shape) }
    };
    FlowBatch {
        labels: (0..images).map(|i| (i + seed as usize) % config.classes).collect(),
        dropped: dropped.to_vec(),
        latents: (0..groups).map(|group| draw(group, &config.latent_shape(images))).collect(),
        draws: (0..groups).map(flow).collect(),
    }
}

/// Dataset of `each` latents per class: the pattern of the class, and noise of a fifth of its size.
pub fn set(config: &TransDiffConfig, each: usize) -> Arc<MemoryDataset> {
    let [_, c, h, w] = config.latent_shape(1);
    let draw = |index: usize, step| StreamKey::new(4, Purpose::Data, index as u32, step).normals(c * h * w);
    let labels: Vec<usize> = (0..each * config.classes).map(|i| i % config.classes).collect();
    let latent = |(i, &label): (usize, &usize)| {
        draw(label, 0)
            .into_iter()
            .zip(draw(i, 1))
            .map(|(pattern, noise)| pattern + 0.2 * noise)
            .collect::<Vec<_>>()
    };
    let values = labels.iter().enumerate().flat_map(latent).collect();
    Arc::new(MemoryDataset::new([c, h, w], values, labels).unwrap())
}

/// One step on the next samples of `set`.
pub fn step<B: Backend>(trainer: &mut Trainer<B>, set: &Arc<impl Dataset + 'static>) -> Result<StepReport> {
    let mut data = trainer.loader(set.clone(), LoaderOptions::default())?;
    trainer.step(&mut data)
}

/// Bits of the values of a tensor.
pub fn bits<B: Backend>(tensor: &Tensor<B>) -> Vec<u64> {
    tensor.to_f64().unwrap().into_iter().map(f64::to_bits).collect()
}

/// Names of the parameters that are not bitwise identical in two models.
pub fn differing<B: Backend, C: Backend>(a: &TransDiff<B>, b: &TransDiff<C>) -> Vec<String> {
    let (a, b) = (a.params(), b.params());
    assert_eq!(a.len(), b.len());
    let pairs = a.into_iter().zip(b).inspect(|((x, _), (y, _))| assert_eq!(x, y));
    pairs.filter(|((_, x), (_, y))| bits(x.value()) != bits(y.value())).map(|((name, _), _)| name).collect()
}

/// Images of 4×4 pixels for latents of 2×2, in two channels.
pub fn vae() -> VaeConfig {
    VaeConfig {
        image_channels: 3,
        latent_channels: 2,
        channels: 32,
        multipliers: vec![1, 1],
        res_blocks: 1,
        attention: vec![],
    }
}

/// Files of a model and its VAE, in memory.
pub fn files<B: Backend>(backend: &B, config: &TransDiffConfig) -> [WeightFile; 2] {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["model", "vae"].map(|name| folder.path().join(name));
    model(backend, config, DType::F32).save(&paths[0]).unwrap();
    Vae::new(backend, &vae(), DType::F32, 5).unwrap().save(&paths[1]).unwrap();
    paths.map(|path| WeightFile::from_bytes("in memory", std::fs::read(path).unwrap()).unwrap())
}
