//! Memory of loading: a model is read tensor by tensor and takes its memory once, whatever else its file contains. A failed
//! allocation is an error, not an abort.

#[path = "common/allocation.rs"]
mod allocation;

use std::sync::Mutex;

use allocation::{peak_of, with_max_block};
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::models::transdiff::{Mode, TransDiff, TransDiffConfig};
use transdiff_core::models::vae::Posterior;
use transdiff_core::nn::Module;
use transdiff_core::{DType, Error, HostTensor, Result, Tensor};
use transdiff_cpu::Cpu;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Serialises the tests, because allocations of a concurrent test would be counted.
static MEASURING: Mutex<()> = Mutex::new(());

fn config() -> TransDiffConfig {
    TransDiffConfig {
        width: 256,
        heads: 4,
        encoder_blocks: 6,
        decoder_blocks: 3,
        mlp_ratio: 4,
        classes: 10,
        buffer_size: 4,
        feature_tokens: 16,
        latent_channels: 4,
        latent_size: 4,
        mode: Mode::OneStep,
        distilled: false,
    }
}

#[test]
fn loading_takes_the_memory_of_the_model_once() {
    let _guard = MEASURING.lock();
    let cpu = Cpu::new(Some(1)).unwrap();
    let model = TransDiff::new(&cpu, &config(), DType::F32, 1).unwrap();
    let host = |set: &str| -> Vec<(String, HostTensor)> {
        let params = model.params().into_iter();
        params.map(|(name, p)| (format!("{set}{name}"), p.value().to_host().unwrap())).collect()
    };
    let sets = ["model.", "model_ema.", "optimizer.exp_avg.", "optimizer.exp_avg_sq."].map(host).concat();
    let file = tempfile::NamedTempFile::new().unwrap();
    let metadata =
        [(TransDiffConfig::METADATA_KEY.to_owned(), serde_json::to_string(&config()).unwrap())].into();
    write_atomic(file.path(), sets.iter().map(|(name, t)| (name, t)), &metadata).unwrap();
    let largest = sets.iter().map(|(_, t)| 4 * t.data().len()).max().unwrap();
    drop(sets);

    let bytes = 4 * model.param_count();
    let (loaded, peak) = peak_of(|| TransDiff::load(&cpu, file.path(), DType::F32).unwrap());
    println!("{bytes} bytes of weights, largest tensor {largest} bytes: peak {peak} bytes");
    assert_eq!(loaded.param_count(), model.param_count());
    // The tensor being loaded exists as it was read, and in the memory order of the backend.
    assert!(peak <= bytes + 3 * largest + (1 << 20), "{peak} bytes for a model of {bytes}");
    assert!(peak >= bytes, "expected a peak of at least {bytes} bytes, got {peak}");
}

/// Number of elements of a tensor whose allocation fails in the tests below.
const LEN: usize = 1 << 16;

/// Checks that the call fails to allocate `bytes` bytes when blocks are limited to `max` bytes.
#[track_caller]
fn assert_out_of_memory<T>(max: usize, bytes: usize, call: impl FnOnce() -> Result<T>) {
    match with_max_block(max, || call().map(drop)) {
        Err(Error::OutOfMemory { bytes: requested, .. }) => assert_eq!(requested, Some(bytes)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn failed_allocation_for_a_file_is_an_error() {
    let _guard = MEASURING.lock();
    let file = tempfile::NamedTempFile::new().unwrap();
    let tensor = HostTensor::f32(&[LEN], vec![0.5; LEN]).unwrap();
    write_atomic(file.path(), [("w", &tensor)], &Default::default()).unwrap();
    let opened = WeightFile::open(file.path()).unwrap();
    assert_out_of_memory(3 * LEN, 4 * LEN, || opened.tensor("w"));
}

/// Encoding takes no memory in proportion to a tensor, and downloading one is an error if it does not fit.
#[test]
fn failed_allocation_for_saving_is_an_error() {
    let _guard = MEASURING.lock();
    let file = tempfile::NamedTempFile::new().unwrap();
    let host = HostTensor::f32(&[LEN], vec![0.5; LEN]).unwrap();
    let save = || write_atomic(file.path(), [("w", &host)], &Default::default());
    let (saved, peak) = peak_of(|| with_max_block(LEN, save));
    saved.unwrap();
    assert!(peak < LEN, "{peak} bytes");
    let tensor = Tensor::from_host(&Cpu::new(Some(1)).unwrap(), &host).unwrap();
    assert_out_of_memory(3 * LEN, 4 * LEN, || {
        write_atomic(file.path(), [("other", &tensor)], &Default::default())
    });
    assert!(WeightFile::open(file.path()).unwrap().entries().contains_key("w"), "the old file is left");
}

#[test]
fn failed_allocation_for_a_caller_is_an_error() {
    let _guard = MEASURING.lock();
    let narrow = HostTensor::f32(&[LEN], vec![0.5; LEN]).unwrap().cast(DType::BF16).unwrap();
    assert_out_of_memory(3 * LEN, 4 * LEN, || narrow.clone().cast(DType::F32));
    assert_out_of_memory(7 * LEN, 8 * LEN, || narrow.clone().cast(DType::F64));
    let moments =
        Tensor::from_f32(&Cpu::new(Some(1)).unwrap(), &[1, 2, 1, LEN / 2], vec![0.5; LEN], DType::F32);
    let moments = moments.unwrap();
    assert_out_of_memory(7 * LEN, 8 * LEN, || moments.to_f64());
    assert_out_of_memory(7 * LEN, 8 * LEN, || Posterior::new(moments.clone()));
    assert_out_of_memory(3 * LEN, 4 * LEN, || moments.to_f32());
}
