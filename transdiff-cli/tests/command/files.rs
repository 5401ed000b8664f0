//! Test files: models, VAEs and golden checkpoints.

use std::path::Path;

use tempfile::TempDir;
use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::models::vae::{Vae, VaeConfig};
use transdiff::models::{CodecRecord, ImageSpec, Model};
use transdiff::nn::Module;
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Cpu, DType, HostTensor, TransDiff};

/// Temporary folder, removed on drop.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// Sorted names of the entries of a subfolder.
    pub fn names(&self, inside: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path().join(inside)).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Writes a small model of `config` and returns its path.
    pub fn model(&self, name: &str, config: &TransDiffConfig) -> String {
        let path = self.path(name);
        model(config).save(&path).expect("a model is written");
        path
    }

    /// Writes a small model of `config` whose file describes its images, and returns its path.
    pub fn described(&self, name: &str, config: &TransDiffConfig, images: &ImageSpec) -> String {
        let path = self.path(name);
        model(config).save_with(&path, &images.metadata()).expect("a model is written");
        path
    }

    /// Writes a small VAE for latents of four channels and returns its path. Images are twice as wide as latents.
    pub fn vae(&self, name: &str) -> String {
        self.vae_of(name, 4)
    }

    /// Writes a small VAE for latents of `latent_channels` channels and returns its path.
    pub fn vae_of(&self, name: &str, latent_channels: usize) -> String {
        let config = VaeConfig {
            image_channels: 3,
            latent_channels,
            channels: 32,
            multipliers: vec![1, 1],
            res_blocks: 1,
            attention: vec![],
        };
        let path = self.path(name);
        let vae = Vae::new(&Cpu::new(Some(1)).expect("a CPU"), &config, DType::F32, 3).expect("a VAE");
        vae.save(&path).expect("a VAE is written");
        path
    }
}

/// Configuration of a 1-step model with latents [4, 4, 4].
pub fn one_step() -> TransDiffConfig {
    TransDiffConfig {
        width: 16,
        heads: 2,
        encoder_blocks: 2,
        decoder_blocks: 2,
        mlp_ratio: 2,
        classes: 10,
        buffer_size: 2,
        feature_tokens: 16,
        latent_channels: 4,
        latent_size: 4,
        mode: Mode::OneStep,
        distilled: false,
    }
}

/// Grey images of 8×8 pixels, in patches of 2×2, for models of [`one_step`].
pub fn grey() -> ImageSpec {
    let classes = (0..10).map(|i| if i == 1 { "trouser".to_owned() } else { format!("Class/{i}") }).collect();
    ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 8, classes }
}

/// The same with four AR steps.
pub fn mrar() -> TransDiffConfig {
    one_step().with_mode(Mode::MultiReference { groups: 4 })
}

/// Model with random values in every parameter; a new model has zeros in its last layer.
pub fn model(config: &TransDiffConfig) -> TransDiff<Cpu> {
    let cpu = Cpu::new(Some(1)).expect("a CPU");
    let mut model = TransDiff::placeholder(&cpu, config, DType::F32).expect("a model");
    for (index, (name, param)) in model.params_mut().into_iter().enumerate() {
        let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let shape = param.value().shape().to_vec();
        let draws =
            StreamKey::new(9, Purpose::Initialisation, index as u32, 0).normals(shape.iter().product());
        let values = draws.into_iter().map(|x| centre + 0.2 * x).collect();
        param.set_host(HostTensor::f32(&shape, values).expect("a tensor")).expect("a value");
    }
    model
}

/// Path of the golden PyTorch file `name`.
pub fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/pth").join(name);
    assert!(path.exists(), "{} does not exist", path.display());
    path.to_str().expect("a path in UTF-8").to_owned()
}
