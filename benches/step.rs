//! Whole passes of the base preset: AR transformer, decoder evaluation, training step.
//!
//! A pass takes seconds and the model takes 1.2 GB (5 GB in training): few samples, and inputs only of the passes that
//! the filter selects.

#[allow(dead_code, reason = "shared with other benchmarks")]
mod workloads;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use transdiff::{Cpu, DType};
use workloads::{DecoderStep, TRAIN_BATCH, TRAIN_MUL, Training, base, features};

const IMAGES: [usize; 2] = [1, 4];

fn step(c: &mut Criterion) {
    let model = base(&Cpu::new(None).unwrap()).unwrap();
    let mut group = c.benchmark_group("base f32");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(10));
    for images in IMAGES {
        let id = BenchmarkId::new("features, class alone", images);
        group.bench_function(id, |b| b.iter(|| features(&model, images).unwrap()));
        let id = BenchmarkId::new("features, with guidance", images);
        group.bench_function(id, |b| b.iter(|| features(&model, 2 * images).unwrap()));
        let mut decoder = None;
        group.bench_function(BenchmarkId::new("decoder step, with guidance", images), |b| {
            // Built only if the filter selects this benchmark.
            let decoder = decoder.get_or_insert_with(|| DecoderStep::new(&model, images).unwrap());
            b.iter(|| decoder.run().unwrap());
        });
    }
    let mut training = None;
    group.bench_function(BenchmarkId::new("training step", format!("{TRAIN_BATCH}x{TRAIN_MUL}")), |b| {
        let training =
            training.get_or_insert_with(|| Training::new(model.clone(), TRAIN_BATCH, DType::F32).unwrap());
        b.iter(|| training.run().unwrap());
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
