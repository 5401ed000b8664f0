//! Models whose linear layers multiply 8-bit integers.

mod common;
#[path = "common/guarded.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod guarded;

use common::tiny::{self, bits};
use transdiff_core::backend::{Activation, Storage};
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::diffusion::{
    EulerMaruyama, Guidance, Interpolant, KeyedNoise, NoopObserver, Sampling, Timesteps,
};
use transdiff_core::models::transdiff::{Session, StoredTransDiff, TransDiff, TransDiffConfig};
use transdiff_core::models::{LoadHints, Model};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::train::{TrainConfig, Trainer};
use transdiff_core::{Backend, DType, Error, HostData, HostTensor, Int8Weight, Precision, Tensor};
use transdiff_cpu::{Cpu, InstructionSet};

use guarded::Guarded;

/// Largest relative error of what a model of large random weights generates: its layers amplify the rounding of those before
/// them more than trained ones do.
const LIMIT: f64 = 0.1;

/// Elements between sentinels, where outputs of single products are checked.
const MARGIN: usize = 37;

fn cpu() -> Cpu {
    Cpu::new(Some(2)).unwrap()
}

fn config() -> TransDiffConfig {
    TransDiffConfig { width: 32, ..tiny::one_step() }
}

fn normal(shape: &[usize], index: u32) -> HostTensor {
    let count = shape.iter().product();
    HostTensor::f32(shape, StreamKey::new(7, Purpose::Data, index, 0).normals(count)).unwrap()
}

/// ‖got − want‖ / ‖want‖.
fn error<B: Backend>(got: &Tensor<B>, want: &Tensor<B>) -> f64 {
    let length = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (got, want) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    assert_eq!(got.len(), want.len());
    let difference: Vec<f64> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
    length(&difference) / length(&want)
}

fn generated(model: &TransDiff<Cpu>, labels: &[usize], seeds: &[u64]) -> Tensor<Cpu> {
    let solver = EulerMaruyama::new(Timesteps::uniform(4).unwrap(), Interpolant::Linear, 0.9, 0.95).unwrap();
    let sampling = Sampling::new(solver, Guidance::new(1.4).unwrap());
    let mut noise = KeyedNoise::new(model.backend(), DType::F32, seeds);
    Session::new(model).generate(labels, &[], &sampling, &mut noise, &mut NoopObserver).unwrap().codes
}

/// A model with few blocks: errors do not accumulate as in large ones.
fn model(cpu: &Cpu) -> TransDiff<Cpu> {
    tiny::model(cpu, &config(), DType::F32)
}

/// Inputs and weights are off by half of 1/127 of the largest magnitude of their row at most.
#[test]
fn linear_layers_are_close_to_f32() {
    let cpu = Guarded::new(cpu(), MARGIN);
    for [m, k, n] in [[1, 1, 1], [5, 30, 7], [64, 768, 96], [33, 3072, 130]] {
        let (x, w, b) = (normal(&[m, k], 0), normal(&[n, k], 1), normal(&[n], 2));
        let [x, wide, b] = [&x, &w, &b].map(|host| Tensor::from_host(&cpu, host).unwrap());
        let weight = Int8Weight::quantize(&w).unwrap();
        for act in [Activation::None, Activation::Gelu] {
            let (want, _) = x.linear(&wide, Some(&b), act, false).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let narrow = Tensor::quantized_weight(&cpu, &weight, dtype).unwrap();
                let [x, b] = [&x, &b].map(|t| t.cast(dtype).unwrap());
                let (got, _) = x.linear(&narrow, Some(&b), act, false).unwrap();
                assert_eq!(got.dtype(), dtype);
                let error = error(&got, &want);
                assert!(error < 0.02, "{m}x{k}x{n} in {dtype}: off by {error}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_threads_batch_or_instruction_set() {
    let mut seen: Option<Vec<u64>> = None;
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        for threads in [1, 2, 3, 8] {
            let cpu = Guarded::new(Cpu::with_instruction_set(Some(threads), set).unwrap(), MARGIN);
            let weight = Int8Weight::quantize(&normal(&[70, 100], 1)).unwrap();
            let weight = Tensor::quantized_weight(&cpu, &weight, DType::BF16).unwrap();
            let x = Tensor::from_host(&cpu, &normal(&[40, 100], 0)).unwrap().cast(DType::BF16).unwrap();
            let linear =
                |x: &Tensor<Guarded<Cpu>>| bits(&x.linear(&weight, None, Activation::None, false).unwrap().0);
            let all = linear(&x);
            for row in [0, 7, 39] {
                let alone = linear(&x.narrow(0, row, 1).unwrap().contiguous().unwrap());
                assert!(alone == all[row * 70..(row + 1) * 70], "row {row} on {set}");
            }
            assert!(*seen.get_or_insert(all.clone()) == all, "{set} with {threads} threads differs");
        }
    }
}

#[test]
fn generations_do_not_depend_on_threads_or_batch() {
    let [one, three] = [1, 3].map(|n| Cpu::new(Some(n)).unwrap());
    let [a, b] = [&one, &three].map(|cpu| model(cpu).to_precision(Precision::INT8).unwrap());
    let both = generated(&a, &[0, 2], &[3, 4]);
    assert_eq!(bits(&both), bits(&generated(&b, &[0, 2], &[3, 4])));
    let second = generated(&a, &[2], &[4]);
    assert_eq!(bits(&second), bits(&both)[both.numel() / 2..]);
}

#[test]
fn generations_are_close_to_f32() {
    let wide = model(&cpu());
    let narrow = wide.to_precision(Precision::INT8).unwrap();
    assert_eq!((narrow.precision(), narrow.dtype()), (Precision::INT8, DType::BF16));
    let error = error(&generated(&narrow, &[0, 2], &[3, 4]), &generated(&wide, &[0, 2], &[3, 4]));
    assert!((1e-4..LIMIT).contains(&error), "off by {error}");
}

#[test]
fn weights_of_the_blocks_are_quantised_and_no_others() {
    let model = model(&cpu()).to_precision(Precision::INT8).unwrap();
    let params = model.params();
    for (name, param) in &params {
        assert_eq!(param.is_quantized(), TransDiffConfig::is_quantized(name), "{name}");
        assert!(!(param.is_quantized() && param.is_trainable()), "{name}");
    }
    let quantized = params.iter().filter(|(_, param)| param.is_quantized()).count();
    let config = config();
    assert_eq!(quantized, 4 * config.encoder_blocks + 8 * (config.decoder_blocks - 1));
}

/// Saving a quantised model writes bf16, which is not what it computes with; [`WeightView::stored`] writes integers.
fn write_int8(model: &TransDiff<Cpu>, folder: &std::path::Path) -> std::path::PathBuf {
    let (wide, path) = (folder.join("wide.safetensors"), folder.join("int8.safetensors"));
    model.save(&wide).unwrap();
    let file = WeightFile::open(&wide).unwrap();
    let stored = StoredTransDiff::find(&file, &LoadHints::default()).unwrap();
    let tensors = stored.tensors().stored(Some(Precision::INT8), TransDiffConfig::is_quantized).unwrap();
    write_atomic(&path, tensors, file.metadata()).unwrap();
    path
}

#[test]
fn files_of_8_bit_integers_load_in_every_format() {
    let (folder, cpu) = (tempfile::tempdir().unwrap(), cpu());
    let wide = model(&cpu);
    let path = write_int8(&wide, folder.path());
    let want = wide.to_precision(Precision::INT8).unwrap();
    let want = generated(&want, &[0, 2], &[3, 4]);
    let loaded = TransDiff::load(&cpu, &path, Precision::INT8).unwrap();
    assert_eq!(bits(&generated(&loaded, &[0, 2], &[3, 4])), bits(&want), "the same integers");
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        let loaded = TransDiff::load(&cpu, &path, dtype).unwrap();
        let error = error(&generated(&loaded, &[0, 2], &[3, 4]), &want);
        assert!(error < LIMIT, "off by {error} in {dtype}");
    }
    // Copied without conversion, the file stays as it is.
    let (file, copy) = (WeightFile::open(&path).unwrap(), folder.path().join("copy.safetensors"));
    write_atomic(&copy, file.select("").stored(None, |_| false).unwrap(), file.metadata()).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

/// Elements of a quantised weight are its dequantised ones for whatever reads them.
#[test]
fn quantised_weights_are_read_and_written_like_others() {
    let cpu = cpu();
    let weight = Int8Weight::quantize(&normal(&[5, 12], 0)).unwrap();
    let mut tensor = Tensor::quantized_weight(&cpu, &weight, DType::F32).unwrap();
    assert_eq!(tensor.to_host().unwrap(), weight.dequantize().unwrap());
    let turned = tensor.transpose().unwrap().contiguous().unwrap();
    assert_eq!(turned.to_f32().unwrap()[1], weight.dequantize().unwrap().to_f32()[12]);
    let x = Tensor::from_host(&cpu, &normal(&[3, 12], 1)).unwrap();
    let plain = Tensor::from_host(&cpu, &weight.dequantize().unwrap()).unwrap();
    // Part of a quantised weight is multiplied in f32.
    let part = |w: &Tensor<Cpu>| {
        let w = w.narrow(0, 1, 3).unwrap();
        x.linear(&w, None, Activation::None, false).unwrap().0.to_f32().unwrap()
    };
    assert_eq!(part(&tensor), part(&plain));
    let view = tensor.make_mut().unwrap();
    cpu.fill(0.5, view).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), [0.5; 60]);
    let (y, _) = x.linear(&tensor, None, Activation::None, false).unwrap();
    let half = Tensor::full(&cpu, &[5, 12], 0.5, DType::F32).unwrap();
    assert_eq!(bits(&y), bits(&x.linear(&half, None, Activation::None, false).unwrap().0));
}

#[test]
fn training_with_8_bit_integers_is_refused() {
    let narrow = model(&cpu()).to_precision(Precision::INT8).unwrap();
    let refused = Trainer::new(narrow, TrainConfig::new(2, 5)).map(drop);
    assert!(matches!(&refused, Err(Error::Config { field: "model", .. })), "{refused:?}");
}

#[test]
fn backends_without_8_bit_integers_refuse_them() {
    let refused = tiny::model(&Reference, &config(), DType::F32).to_precision(Precision::INT8).map(drop);
    let expected =
        |e: &Error| matches!(e, Error::Argument { argument: "precision", got, .. } if got == "int8");
    assert!(refused.as_ref().is_err_and(expected), "{refused:?}");
}

/// A file whose tensor `w` is described by `change`, and its error.
fn refused(tensors: Vec<(&str, Raw)>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_atomic(&path, tensors, &Default::default()).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let text = file.tensor("w").unwrap_err().to_string();
    assert!(text.contains("weights.safetensors"), "{text}");
    text
}

/// A tensor as its bytes.
struct Raw(safetensors::Dtype, Vec<usize>, Vec<u8>);

impl transdiff_core::checkpoint::WriteTensor for Raw {
    fn dtype(&self) -> safetensors::Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn write(&self, put: &mut transdiff_core::checkpoint::Put<'_>) -> transdiff_core::Result<()> {
        put(&self.2)
    }
}

#[test]
fn wrong_integers_and_scales_are_refused() {
    use safetensors::Dtype::{F16, F32, I8};
    let values = || Raw(I8, vec![2, 3], vec![1, 2, 3, 255, 0, 127]);
    let scales = |scales: [f32; 2]| Raw(F32, vec![2], scales.map(f32::to_le_bytes).concat());
    for (tensors, expected) in [
        (vec![("w", values())], "w_scale"),
        (vec![("w", values()), ("w_scale", Raw(F32, vec![1], vec![0; 4]))], "w_scale"),
        (vec![("w", values()), ("w_scale", Raw(F16, vec![2], vec![0; 4]))], "w_scale"),
        (vec![("w", values()), ("w_scale", scales([1.0, -1.0]))], "not negative"),
        (vec![("w", values()), ("w_scale", scales([1.0, f32::NAN]))], "finite"),
        (vec![("w", values()), ("w_scale", scales([1.0, 3e38]))], "finite"),
        (
            vec![("w", Raw(safetensors::Dtype::U8, vec![2, 1], vec![1, 2])), ("w_scale", scales([1.0, 1.0]))],
            "U8 [2, 1] and F32 [2]",
        ),
        (
            vec![("w", Raw(I8, vec![1, 1], vec![128])), ("w_scale", Raw(F32, vec![1], vec![0; 4]))],
            "-127..=127",
        ),
        (vec![("w", Raw(I8, vec![2], vec![1, 2])), ("w_scale", scales([1.0, 1.0]))], "w_scale"),
    ] {
        let text = refused(tensors);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn integers_with_scales_are_one_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let raw = |dtype, shape: &[usize], bytes: &[u8]| Raw(dtype, shape.to_vec(), bytes.to_vec());
    let scales = [2.0f32, 0.5].map(f32::to_le_bytes).concat();
    let tensors = [
        ("w", raw(safetensors::Dtype::I8, &[2, 2], &[1, 255, 127, 0])),
        ("w_scale", raw(safetensors::Dtype::F32, &[2], &scales)),
        ("other_scale", raw(safetensors::Dtype::F32, &[1], &[0; 4])),
    ];
    write_atomic(&path, tensors, &Default::default()).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.entries().keys().collect::<Vec<_>>(), ["other_scale", "w"]);
    let w = file.tensor("w").unwrap();
    assert_eq!((w.shape(), w.data()), (&[2, 2][..], &HostData::F32(vec![2.0, -2.0, 63.5, 0.0])));
    file.select("").check(&[("w".into(), vec![2, 2]), ("other_scale".into(), vec![1])]).unwrap();
}
