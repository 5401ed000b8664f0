//! Launches of a decoder step and of a training step: a count that shows without a GPU if a fusion is lost.

use std::collections::BTreeMap;

use transdiff_core::autograd::{Context, Var};
use transdiff_core::models::transdiff::{FlowObjective, TransDiffConfig};
use transdiff_core::train::{TrainConfig, Trainer};
use transdiff_core::{DType, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator};
use crate::tiny;

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

/// Launches of an evaluation of a decoder with this many blocks, for both branches of guidance.
fn evaluation(emulator: &Emulator, blocks: usize) -> BTreeMap<String, usize> {
    let cuda = Cuda::new(0).unwrap();
    let config = TransDiffConfig { decoder_blocks: blocks, ..tiny::one_step() };
    let model = tiny::model(&cuda, &config, DType::BF16);
    let ctx = model.inference();
    let condition = model.condition(&ctx, &model.features(&ctx, &[1, 2], &[]).unwrap()).unwrap();
    let time = model.decoder().time(&ctx, &[500.0]).unwrap();
    let shape = [1, config.decoder_tokens(), config.latent_channels];
    let x = Var::from(Tensor::full(&cuda, &shape, 0.5, DType::F32).unwrap());
    let velocity = || model.decoder().velocity(&Context::inference(), &x, &time, &condition).unwrap();
    velocity();
    emulator.reset();
    velocity();
    launches(emulator)
}

/// Six products, two attentions, three norms and three residuals.
#[test]
fn decoder_block_has_few_launches() {
    let Some(emulator) = emulator() else { return };
    let [few, many] = [2, 6].map(|blocks| evaluation(&emulator, blocks));
    let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
    let per_block = (total(&many) - total(&few)) as f64 / 4.0;
    println!("{per_block} launches per decoder block");
    assert!(per_block <= 14.0, "{per_block} launches per block: {few:#?} {many:#?}");
}

/// With the blocks of the large preset.
#[test]
fn training_step_has_few_launches() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let config = TransDiffConfig { encoder_blocks: 32, decoder_blocks: 16, ..tiny::one_step() };
    let settings = TrainConfig {
        compute: DType::BF16,
        dropout: 0.1,
        objective: FlowObjective { batch_mul: 4, ..FlowObjective::default() },
        ..TrainConfig::new(2, 20)
    };
    let mut trainer = Trainer::new(tiny::model(&cuda, &config, DType::F32), settings).unwrap();
    let set = tiny::set(&config, 2);
    tiny::step(&mut trainer, &set).unwrap();
    emulator.reset();
    tiny::step(&mut trainer, &set).unwrap();
    let counts = launches(&emulator);
    let total: usize = counts.values().sum();
    println!("{total} launches per training step: {counts:#?}");
    assert!(total <= 2500, "{total} launches: {counts:#?}");
}
