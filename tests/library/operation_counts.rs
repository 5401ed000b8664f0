//! Operation counts of the benchmarks against counts by hand.

use crate::flops;
use transdiff::DType;
use transdiff::data::LoaderOptions;
use transdiff::diffusion::{Preset, SamplingSettings};
use transdiff::models::Model;
use transdiff::models::transdiff::{FlowObjective, Mode, Size, TransDiff, TransDiffConfig};
use transdiff::models::vae::VaeConfig;
use transdiff::train::{TrainConfig, Trainer};
use transdiff_core::metering::Meter;

/// 2 class tokens, 4 features; latents of 4×4 positions with 3 channels.
fn model(mode: Mode) -> TransDiffConfig {
    TransDiffConfig {
        width: 8,
        heads: 2,
        encoder_blocks: 2,
        decoder_blocks: 1,
        mlp_ratio: 4,
        classes: 10,
        buffer_size: 2,
        feature_tokens: 4,
        latent_channels: 3,
        latent_size: 4,
        mode,
        distilled: false,
    }
}

/// Multiply-adds of an encoder block per token: queries, keys, values 3·8·8, the projection 8·8, the MLP twice 8·32.
const TOKEN: usize = 192 + 64 + 512;

/// Multiply-adds of the decoder for one latent of 16 tokens that sees `features` features: in and out 2·3·8 per token; the
/// block's projections 4·64 and 2·64 and its MLP 512 per token, and 2·8 for each of 16 and `features` keys.
fn velocity(features: usize) -> usize {
    16 * (48 + (256 + 128 + 512) + 16 * 16 + 16 * features)
}

/// Multiply-adds of a timestep's embedding: 256·8, 8·8 and 8·48.
const TIME: usize = 2048 + 64 + 384;

#[test]
fn one_step_counts_match() {
    let config = model(Mode::OneStep);
    // 6 tokens, each of which sees 6.
    let features = 2 * (6 * TOKEN + 6 * 6 * 16);
    assert_eq!(flops::features(&config, 3), 2 * 3 * features);
    // 4 features: cond_embed, keys and values, 8·8 each.
    let condition = 4 * 3 * 64;
    assert_eq!(flops::condition(&config, 5, 4), 2 * 5 * condition);
    assert_eq!(flops::velocity(&config, 7, 4), 2 * 7 * velocity(4));
    let sample = 3 * features + 4 * condition + 10 * (6 * velocity(4) + TIME);
    assert_eq!(flops::generation(&config, 3, 10), 2 * sample);
    let forward = 3 * features + 3 * condition + 6 * (velocity(4) + TIME);
    assert_eq!(flops::training(&config, 3, 2), 2 * 3 * forward);
}

#[test]
fn multi_reference_counts_match() {
    let config = model(Mode::MultiReference { groups: 4 });
    // Groups of one token, a patch of 4×4 positions with 48 values. Class tokens see 2 keys, group k sees 3 + k.
    let first = 2 * (3 * TOKEN + (2 * 2 + 3) * 16);
    let later: usize = (1..4).map(|k| 48 * 8 + 2 * (TOKEN + (3 + k) * 16)).sum();
    let conditions: usize = (1..=4).map(|n| n * 3 * 64).sum();
    let steps: usize = (1..=4).map(|n| 5 * (2 * velocity(n) + TIME)).sum();
    let one = 2 * (first + later) + 2 * conditions + steps;
    assert_eq!(flops::generation(&config, 1, 5), 2 * one);
}

/// Two levels of 32 and 64 channels; images of 4×4, latents of 2×2 with 2 channels.
#[test]
fn vae_counts_match() {
    let config = VaeConfig {
        image_channels: 3,
        latent_channels: 2,
        channels: 32,
        multipliers: vec![1, 2],
        res_blocks: 1,
        attention: vec![1],
    };
    // Weights of a 3×3 convolution, of which each output pixel takes every one once.
    let k3 = |inputs: usize, outputs: usize| 9 * inputs * outputs;
    let attention = 4 * (4 * 64 * 64) + 2 * 4 * 4 * 64;
    let middle = 4 * 4 * k3(64, 64) + attention;
    let coarse = 4 * (2 * 2 + k3(2, 64)) + middle + 4 * (4 * k3(64, 64)) + 16 * k3(64, 64);
    let fine = 16 * (k3(64, 32) + k3(32, 32) + 64 * 32 + 2 * k3(32, 32)) + 16 * k3(32, 3);
    assert_eq!(flops::decoding(&config, 3, 4), 2 * 3 * (coarse + fine));
    let fine = 16 * (k3(3, 32) + 2 * k3(32, 32)) + 4 * k3(32, 32);
    let coarse = 4 * (k3(32, 64) + k3(64, 64) + 32 * 64) + attention + middle + 4 * (k3(64, 4) + 4 * 4);
    assert_eq!(flops::encoding(&config, 3, 4), 2 * 3 * (fine + coarse));
}

/// The count of the code that runs. Time embeddings are computed for the final time, too.
#[test]
fn counts_of_a_generation_are_those_by_hand() {
    let config = model(Mode::OneStep);
    let sampling = |scale: f64, ar_steps: usize| {
        let settings = SamplingSettings { guidance: vec![scale], ..Preset::PLAIN.into() };
        settings.with_steps(10).build(ar_steps).unwrap()
    };
    let by_hand = flops::features(&config, 1)
        + flops::condition(&config, 1, 4)
        + 10 * flops::velocity(&config, 1, 4)
        + 11 * 2 * TIME;
    let plain = config.generation_flops(&sampling(1.0, 1), 0).unwrap();
    assert_eq!(plain, by_hand as u64);
    // Both branches of guidance share the decoder up to the first cross-attention.
    let guided = config.generation_flops(&sampling(1.3, 1), 0).unwrap();
    assert!(guided < 2 * plain && guided > 3 * plain / 2, "{guided} {plain}");
    let config = model(Mode::MultiReference { groups: 4 });
    let [all, fewer] = [0, 1].map(|given| config.generation_flops(&sampling(1.0, 4), given).unwrap());
    assert!(fewer < 4 * all / 5, "{fewer} {all}");
}

/// A training step of the large preset in bf16, with 64 samples and four copies each, after the first: operations by the counts
/// of the benchmarks, and bytes of all inputs and outputs, which an H200 copies in 110 ms.
#[test]
fn training_step_moves_few_bytes() {
    let config = TransDiffConfig::published(Size::Large, 256, Mode::OneStep).unwrap();
    let meter = Meter::default();
    let model = TransDiff::placeholder(&meter, &config, DType::F32).unwrap();
    let settings = TrainConfig {
        compute: DType::BF16,
        objective: FlowObjective { batch_mul: 4, ..FlowObjective::default() },
        ..TrainConfig::new(64, 1000)
    };
    let mut trainer = Trainer::new(model, settings).unwrap();
    let set = crate::common::tiny::set(&config, 1);
    let mut data = trainer.loader(set, LoaderOptions::default()).unwrap();
    trainer.step(&mut data).unwrap();
    let before = [meter.flops(), meter.moved_bytes()];
    trainer.step(&mut data).unwrap();
    let [flops, bytes] = [meter.flops() - before[0], meter.moved_bytes() - before[1]];
    println!("{:.1} TFLOP, {:.1} GB", flops as f64 / 1e12, bytes as f64 / 1e9);
    let by_hand = flops::training(&config, 64, 4) as f64;
    assert!((flops as f64 / by_hand - 1.0).abs() < 0.1, "{flops} {by_hand}");
    assert!(bytes <= 470_000_000_000, "{bytes}");
}
