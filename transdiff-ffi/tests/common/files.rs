//! Weight files of tiny models, as bytes in the safetensors format.

use std::sync::OnceLock;

use transdiff::checkpoint::WeightFile;
use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::models::vae::{Vae, VaeConfig};
use transdiff::models::{CodecRecord, ImageSpec, LoadHints, Model};
use transdiff::nn::Module;
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Cpu, DType, HostTensor, TransDiff};

pub const CLASSES: usize = 3;

pub fn one_step() -> TransDiffConfig {
    TransDiffConfig {
        width: 8,
        heads: 2,
        encoder_blocks: 2,
        decoder_blocks: 2,
        mlp_ratio: 2,
        classes: CLASSES,
        buffer_size: 2,
        feature_tokens: 4,
        latent_channels: 2,
        latent_size: 2,
        mode: Mode::OneStep,
        distilled: false,
    }
}

/// MRAR with four groups of one token.
pub fn mrar() -> TransDiffConfig {
    TransDiffConfig { mode: Mode::MultiReference { groups: 4 }, ..one_step() }
}

/// 1-step model of grey images of 4×4 pixels, in patches of 2×2, with class names.
pub fn grey() -> (TransDiffConfig, ImageSpec) {
    let classes = ["trouser", "Ankle boot", "größe"].map(String::from).to_vec();
    let images = ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 4, classes };
    (TransDiffConfig { latent_channels: 4, ..one_step() }, images)
}

/// VAE for [`one_step`]: images of 4×4 pixels.
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

/// Bytes of the file that `save` writes.
fn saved(save: impl FnOnce(&std::path::Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    save(&path);
    std::fs::read(path).unwrap()
}

/// Model file with random values, modified by `change`, which receives the name and values of every parameter.
pub fn model_with(config: &TransDiffConfig, mut change: impl FnMut(&str, &mut Vec<f32>)) -> Vec<u8> {
    let mut model = TransDiff::placeholder(&Cpu::new(Some(1)).unwrap(), config, DType::F32).unwrap();
    for (index, (name, param)) in model.params_mut().into_iter().enumerate() {
        let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let shape = param.value().shape().to_vec();
        let mut stream = StreamKey::new(9, Purpose::Initialisation, index as u32, 0).stream();
        let draw = |_| (centre + 0.4 * stream.normal()) as f32;
        let mut values: Vec<f32> = (0..shape.iter().product::<usize>()).map(draw).collect();
        change(&name, &mut values);
        param.set_host(HostTensor::f32(&shape, values).unwrap()).unwrap();
    }
    saved(|path| model.save(path).unwrap())
}

/// Model file with random values and a description of its images.
pub fn described(config: &TransDiffConfig, images: &ImageSpec) -> Vec<u8> {
    let bytes = model(config);
    let file = WeightFile::from_bytes("in memory", bytes).unwrap();
    let model = TransDiff::from_file(&Cpu::new(Some(1)).unwrap(), &file, DType::F32, &LoadHints::default());
    saved(|path| model.unwrap().save_with(path, &images.metadata()).unwrap())
}

pub fn model(config: &TransDiffConfig) -> Vec<u8> {
    model_with(config, |_, _| ())
}

/// VAE file, modified by `change`, which receives the name and values of every parameter.
pub fn vae_with(config: &VaeConfig, mut change: impl FnMut(&str, &mut Vec<f32>)) -> Vec<u8> {
    let mut vae = Vae::new(&Cpu::new(Some(1)).unwrap(), config, DType::F32, 5).unwrap();
    for (name, param) in vae.params_mut() {
        let shape = param.value().shape().to_vec();
        let mut values = param.value().to_host().unwrap().to_f32();
        change(&name, &mut values);
        param.set_host(HostTensor::f32(&shape, values).unwrap()).unwrap();
    }
    saved(|path| vae.save(path).unwrap())
}

/// Files shared by many tests: the 1-step model, the MRAR model, and the VAE of the former.
pub struct Files {
    pub one_step: Vec<u8>,
    pub mrar: Vec<u8>,
    pub vae: Vec<u8>,
}

pub fn shared() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| Files {
        one_step: model(&one_step()),
        mrar: model(&mrar()),
        vae: vae_with(&vae(), |_, _| ()),
    })
}
