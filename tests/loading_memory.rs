//! A model is loaded tensor by tensor: memory holds it once, whatever else its file holds.

#[path = "common/allocation.rs"]
mod allocation;

use allocation::peak_of;
use transdiff_core::model::{CONFIG_KEY, Mode, ModelConfig, TransDiff};
use transdiff_core::nn::Module;
use transdiff_core::weights::write_atomic;
use transdiff_core::{DType, HostTensor};
use transdiff_cpu::Cpu;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

fn config() -> ModelConfig {
    ModelConfig {
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
    let cpu = Cpu::new(Some(1)).unwrap();
    let model = TransDiff::new(&cpu, &config(), DType::F32, 1).unwrap();
    let host = |set: &str| -> Vec<(String, HostTensor)> {
        let params = model.params().into_iter();
        params.map(|(name, p)| (format!("{set}{name}"), p.value().to_host().unwrap())).collect()
    };
    let sets = ["model.", "model_ema.", "optimizer.exp_avg.", "optimizer.exp_avg_sq."].map(host).concat();
    let file = tempfile::NamedTempFile::new().unwrap();
    let metadata = [(CONFIG_KEY.to_owned(), serde_json::to_string(&config()).unwrap())].into();
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
