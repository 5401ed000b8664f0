//! Memory of training: the estimate is within a tenth of what the CPU takes.

#[path = "common/allocation.rs"]
mod allocation;

use std::sync::Arc;

use allocation::peak_of;
use transdiff_core::DType;
use transdiff_core::backend::Summation;
use transdiff_core::data::{LoaderOptions, MemoryDataset};
use transdiff_core::models::transdiff::{FlowObjective, Mode, TransDiff, TransDiffConfig};
use transdiff_core::train::{TrainConfig, Trainer, TrainingEstimate};
use transdiff_cpu::Cpu;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

fn config() -> TransDiffConfig {
    TransDiffConfig {
        width: 128,
        heads: 4,
        encoder_blocks: 4,
        decoder_blocks: 3,
        mlp_ratio: 4,
        classes: 10,
        buffer_size: 4,
        feature_tokens: 64,
        latent_channels: 4,
        latent_size: 8,
        mode: Mode::OneStep,
        distilled: false,
    }
}

/// One test, because concurrent ones would be counted.
#[test]
fn estimate_is_within_a_tenth_of_the_peak() {
    let mrar = TransDiffConfig { mode: Mode::MultiReference { groups: 4 }, ..config() };
    let settings = TrainConfig {
        objective: FlowObjective { batch_mul: 2, ..FlowObjective::default() },
        ..TrainConfig::new(8, 100)
    };
    let cases = [
        (config(), settings.clone()),
        (config(), TrainConfig { accumulate: 3, batch: 4, ..settings.clone() }),
        (config(), TrainConfig { gradient_checkpointing: true, batch: 16, ..settings.clone() }),
        (config(), TrainConfig { trainable_prefixes: vec!["diffdecoder.".into()], ..settings.clone() }),
        (config(), TrainConfig { compute: DType::BF16, ..settings.clone() }),
        (mrar, TrainConfig { batch: 4, ..settings }),
    ];
    for (config, settings) in cases {
        let estimate =
            TrainingEstimate::new::<TransDiff<_>>(&config, &settings, Summation::Pairwise).unwrap();
        let shape = [config.latent_channels, config.latent_size, config.latent_size];
        let set = MemoryDataset::new(shape, vec![0.5; 40 * shape.iter().product::<usize>()], vec![0; 40]);
        let set = Arc::new(set.unwrap());
        let ((), peak) = peak_of(|| {
            let model = TransDiff::new(&Cpu::new(Some(2)).unwrap(), &config, DType::F32, 1).unwrap();
            let mut trainer: Trainer<_> = Trainer::new(model, settings.clone()).unwrap();
            let mut data = trainer.loader(set, LoaderOptions::default()).unwrap();
            for _ in 0..2 {
                trainer.step(&mut data).unwrap();
            }
        });
        let ratio = estimate.total() as f64 / peak as f64;
        println!("{settings:?}\n{estimate:?}: {ratio:.3} of {peak} bytes");
        assert!((0.9..1.1).contains(&ratio), "{estimate:?} for {peak} bytes");
    }
}
