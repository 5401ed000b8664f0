//! A model is loaded tensor by tensor: memory holds it once, whatever else its file holds. What the system refuses is an
//! error.

#[path = "common/allocation.rs"]
mod allocation;

use std::sync::Mutex;

use allocation::{peak_of, refusing};
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::models::transdiff::{Mode, TransDiff, TransDiffConfig};
use transdiff_core::models::vae::Posterior;
use transdiff_core::nn::Module;
use transdiff_core::{DType, Error, HostTensor, Result, Tensor};
use transdiff_cpu::Cpu;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// One test runs at a time: what another allocates would be counted.
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
    }
}

#[test]
fn a_model_takes_its_memory_once() {
    let _one = MEASURING.lock();
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
    println!("{bytes} bytes of weights, the largest tensor {largest}: {peak} at the highest");
    assert_eq!(loaded.param_count(), model.param_count());
    // The tensor that is on its way is held as it was read, and in the order that the backend keeps.
    assert!(peak <= bytes + 3 * largest + (1 << 20), "{peak} bytes for a model of {bytes}");
    assert!(peak >= bytes, "not everything was counted");
}

/// Elements of a tensor for which there is no memory below.
const LEN: usize = 1 << 16;

/// There is memory for blocks of up to `most` bytes, and the call wants one of `bytes`.
#[track_caller]
fn refused<T>(most: usize, bytes: usize, call: impl FnOnce() -> Result<T>) {
    match refusing(most, || call().map(drop)) {
        Err(Error::OutOfMemory { bytes: wanted, .. }) => assert_eq!(wanted, Some(bytes)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_that_a_file_asks_for_is_refused() {
    let _one = MEASURING.lock();
    let file = tempfile::NamedTempFile::new().unwrap();
    let tensor = HostTensor::f32(&[LEN], vec![0.5; LEN]).unwrap();
    write_atomic(file.path(), [("w", &tensor)], &Default::default()).unwrap();
    let opened = WeightFile::open(file.path()).unwrap();
    refused(3 * LEN, 4 * LEN, || opened.tensor("w"));
}

#[test]
fn memory_that_a_caller_asks_for_is_refused() {
    let _one = MEASURING.lock();
    let narrow = HostTensor::f32(&[LEN], vec![0.5; LEN]).unwrap().cast(DType::BF16).unwrap();
    refused(3 * LEN, 4 * LEN, || narrow.clone().cast(DType::F32));
    refused(7 * LEN, 8 * LEN, || narrow.clone().cast(DType::F64));
    let moments =
        Tensor::from_f32(&Cpu::new(Some(1)).unwrap(), &[1, 2, 1, LEN / 2], vec![0.5; LEN], DType::F32);
    let moments = moments.unwrap();
    refused(7 * LEN, 8 * LEN, || moments.to_f64());
    refused(7 * LEN, 8 * LEN, || Posterior::new(moments.clone()));
    refused(3 * LEN, 4 * LEN, || moments.to_f32());
}
