//! Launches of a decoder step and of a training step of a model with the blocks of the large preset.

use std::collections::BTreeMap;

use transdiff_core::DType;
use transdiff_core::models::transdiff::{FlowObjective, TransDiffConfig};
use transdiff_core::train::{TrainConfig, Trainer};
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator};
use crate::tiny;

/// Blocks as in the large preset.
fn config() -> TransDiffConfig {
    TransDiffConfig { encoder_blocks: 32, decoder_blocks: 16, ..tiny::one_step() }
}

/// Launches by kernel; products, copies and fills by the function that enqueues them.
fn launches(emulator: &Emulator) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in emulator.log() {
        *counts.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    for function in ["cublasLtMatmul", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async"] {
        counts.insert(function.to_owned(), emulator.count(function));
    }
    counts
}

#[test]
fn training_step_has_few_launches() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let settings = TrainConfig {
        compute: DType::BF16,
        dropout: 0.1,
        objective: FlowObjective { batch_mul: 4, ..FlowObjective::default() },
        ..TrainConfig::new(2, 20)
    };
    let mut trainer = Trainer::new(tiny::model(&cuda, &config(), DType::F32), settings).unwrap();
    let set = tiny::set(&config(), 2);
    tiny::step(&mut trainer, &set).unwrap();
    emulator.reset();
    tiny::step(&mut trainer, &set).unwrap();
    let counts = launches(&emulator);
    let total: usize = counts.values().sum();
    assert!(total <= 2500, "{total} launches: {counts:#?}");
}
