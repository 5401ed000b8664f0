//! Files that earlier versions of the library wrote still load. The files are never changed.

use std::path::PathBuf;
use std::sync::Arc;

use transdiff_core::DType;
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::data::{LoaderOptions, MemoryDataset};
use transdiff_core::models::transdiff::{Mode, TransDiff, TransDiffConfig};
use transdiff_core::models::{LoadHints, Model, StoredModel, WeightSet};
use transdiff_core::nn::Module;
use transdiff_core::train::Trainer;
use transdiff_cpu::Cpu;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/earlier_versions/0.1.0").join(name)
}

fn config() -> TransDiffConfig {
    TransDiffConfig {
        width: 4,
        heads: 2,
        encoder_blocks: 1,
        decoder_blocks: 1,
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

#[test]
fn models_without_a_format_version_load() {
    let file = WeightFile::open(path("model.safetensors")).unwrap();
    let stored = StoredModel::find(&file, &LoadHints::default()).unwrap();
    stored.check().unwrap();
    assert_eq!(stored.weights(), WeightSet::Single);
    let model = TransDiff::load(&Cpu::new(Some(1)).unwrap(), path("model.safetensors"), DType::F32).unwrap();
    assert_eq!(model.config(), &config());
    for (name, param) in model.params() {
        assert_eq!(param.value().to_host().unwrap(), file.tensor(&name).unwrap(), "{name}");
    }
}

#[test]
fn checkpoints_without_a_format_version_resume() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let mut run = Trainer::<Cpu, TransDiff<Cpu>>::resume(&cpu, path("checkpoint.safetensors")).unwrap();
    assert_eq!((run.steps_done(), run.model().config()), (3, &config()));
    let settings = run.config();
    assert_eq!((settings.seed, settings.batch, settings.accumulate, settings.dropout), (11, 3, 2, 0.1));
    let file = WeightFile::open(path("checkpoint.safetensors")).unwrap();
    for (model, prefix) in [(run.model(), "model"), (run.ema(), "ema")] {
        for (name, param) in model.params() {
            let stored = file.tensor(&format!("{prefix}.{name}")).unwrap();
            assert_eq!(param.value().to_host().unwrap(), stored, "{prefix}.{name}");
        }
    }
    let latents = (0..12 * 8).map(|i| (i % 5) as f32 / 2.0 - 1.0).collect();
    let set = MemoryDataset::new([2, 2, 2], latents, (0..12).map(|i| i % 3).collect()).unwrap();
    let mut data = run.loader(Arc::new(set), LoaderOptions::default()).unwrap();
    assert!(run.step(&mut data).unwrap().loss.is_finite());
    assert_eq!(run.steps_done(), 4);
}
