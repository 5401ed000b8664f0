//! Checkpoints of the published implementation: their tensors, their data, and the models in them, compared with the
//! golden files that hold the same weights.

use std::path::PathBuf;

use crate::common::archive::{checkpoint, zip};
use crate::common::golden::{Golden, exists, folder};
use crate::common::pickle;
use crate::common::tiny::{bits, differing};
use serde_json::json;
use transdiff_core::checkpoint::{Format, StoredDType, WeightFile, write_atomic};
use transdiff_core::models::FileKind;
use transdiff_core::models::transdiff::{Mode, Size, StoredTransDiff, TransDiff, TransDiffConfig};
use transdiff_core::models::vae::StoredVae;
use transdiff_core::models::{LoadHints, Model, WeightSet};
use transdiff_core::nn::Module;
use transdiff_core::{DType, Error, HostData, HostTensor};
use transdiff_cpu::Cpu;

/// Path of `pth/NAME`, or `None` (reported in a line) if a folder given by `TRANSDIFF_GOLDEN` lacks the file.
fn find(name: &str) -> Option<PathBuf> {
    Some(folder().join("pth").join(name)).filter(|path| exists(path))
}

/// The file `pth/NAME`, opened from disk, from memory and memory-mapped.
fn open(name: &str) -> Vec<WeightFile> {
    let Some(path) = find(name) else { return Vec::new() };
    let bytes = std::fs::read(&path).unwrap();
    // SAFETY: no process writes to the golden files.
    let mapped = unsafe { WeightFile::open_mapped(&path) };
    [WeightFile::open(&path), WeightFile::from_bytes(&path, bytes), mapped].map(Result::unwrap).into()
}

/// Number of heads of the recorded model, which its file does not contain.
fn hints(golden: &Golden) -> LoadHints {
    LoadHints { heads: Some(golden.value("heads")), ..LoadHints::default() }
}

#[test]
fn values_equal_the_golden_file() {
    let golden = Golden::load("onestep_256");
    for file in open("checkpoint-last.pth") {
        assert_eq!((file.format(), FileKind::of(&file)), (Format::PyTorch, FileKind::Model));
        for (here, there) in [("model.", "param."), ("model_ema.", "ema.")] {
            let view = file.select(here);
            let names: Vec<&str> = view.entries().map(|(name, _)| name).collect();
            assert_eq!(names, golden.under(there).map(|(name, _)| name).collect::<Vec<_>>());
            for (name, tensor) in golden.under(there) {
                assert_eq!(&view.tensor(name).unwrap(), tensor, "{here}{name}");
            }
        }
        assert!(file.entries().keys().any(|name| name.starts_with("optimizer.state.0.")));
    }
}

#[test]
fn bf16_values_are_the_golden_values_rounded() {
    let golden = Golden::load("onestep_256");
    for file in open("checkpoint-bf16.pth") {
        let hints = LoadHints { weights: Some(WeightSet::Raw), ..hints(&golden) };
        let source = StoredTransDiff::find(&file, &hints).unwrap();
        assert_eq!(source.tensors().entries().count(), golden.under("param.").count());
        for (name, tensor) in golden.under("param.") {
            assert_eq!(source.tensors().get(name).unwrap().dtype(), StoredDType::BF16, "{name}");
            let rounded = tensor.clone().cast(DType::BF16).unwrap();
            assert_eq!(source.tensors().tensor(name).unwrap(), rounded, "{name}");
        }
    }
}

#[test]
fn plain_data_is_kept() {
    let golden = Golden::load("onestep_256");
    for file in open("checkpoint-last.pth") {
        let values = file.values();
        assert_eq!(values["args"]["img_size"], json!(golden.value::<u64>("img_size")));
        assert_eq!(values["args"]["mrar"], json!(golden.text("mrar") == "true"));
        assert!(values["epoch"].is_u64());
        assert!(values["optimizer"]["param_groups"][0]["betas"].is_array());
        assert!(values.get("model").is_none() && file.metadata().is_empty());
    }
}

/// `base` is 0..23 as 4×6; the others are views of it, or the same values in other types.
#[test]
fn views_are_read_as_contiguous_tensors() {
    let base: Vec<f64> = (0..24).map(f64::from).collect();
    let at = |row: usize, column: usize| base[6 * row + column];
    let slice: Vec<f64> = (1..3).flat_map(|r| (2..5).map(move |c| at(r, c))).collect();
    let transposed: Vec<f64> = (0..6).flat_map(|c| (0..4).map(move |r| at(r, c))).collect();
    for file in open("views.pth") {
        let view = file.select("model.");
        let tensor = |name: &str| view.tensor(name).unwrap();
        assert_eq!(tensor("base").to_f64(), base);
        assert_eq!((tensor("slice").shape(), tensor("slice").to_f64()), ([2, 3].as_slice(), slice.clone()));
        assert_eq!(tensor("transposed").shape(), [6, 4]);
        assert_eq!(tensor("transposed").to_f64(), transposed);
        assert_eq!(view.get("half").unwrap().dtype(), StoredDType::F16);
        assert_eq!(tensor("half").dtype(), DType::F32);
        assert_eq!(tensor("double").dtype(), DType::F64);
        for name in ["half", "double"] {
            assert_eq!(
                (tensor(name).shape(), tensor(name).to_f64()),
                ([4, 6].as_slice(), base.clone()),
                "{name}"
            );
        }
        assert_eq!(
            (view.get("long").unwrap().dtype(), tensor("long").dtype()),
            (StoredDType::I64, DType::I32)
        );
        assert_eq!(tensor("long").to_f64(), base[..5]);
        assert_eq!(
            (tensor("scalar").shape(), tensor("scalar").to_f64()),
            ([0usize; 0].as_slice(), vec![2.5])
        );
        assert_eq!(view.entries().count(), 7);
    }
}

/// Views larger than one read, with their axes in every order.
#[test]
fn large_views_are_read_in_every_axis_order() {
    const SHAPE: [i64; 3] = [90, 70, 50];
    const STRIDES: [i64; 3] = [3500, 50, 1];
    let numel: i64 = SHAPE.iter().product();
    let values: Vec<f32> = (0..numel).map(|i| i as f32).collect();
    let storage: Vec<u8> = values.iter().copied().flat_map(f32::to_le_bytes).collect();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let view = |order: [usize; 3]| {
        let storage = pickle::storage("FloatStorage", "0", numel);
        pickle::view(storage, 0, &order.map(|a| SHAPE[a]), &order.map(|a| STRIDES[a]))
    };
    let names = orders.map(|order| format!("{order:?}"));
    let tensors: Vec<(&str, Vec<u8>)> = names.iter().map(String::as_str).zip(orders.map(view)).collect();
    let bytes = zip(&checkpoint(&pickle::pickle(&pickle::dict(&tensors)), &[&storage]));
    let on_disk = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(on_disk.path(), &bytes).unwrap();
    for file in [WeightFile::open(on_disk.path()), WeightFile::from_bytes("views", bytes)] {
        let file = file.unwrap();
        for (name, order) in names.iter().zip(orders) {
            let [d0, d1, d2] = order.map(|a| SHAPE[a]);
            let [s0, s1, s2] = order.map(|a| STRIDES[a]);
            let index = |i: i64| i / (d1 * d2) * s0 + i / d2 % d1 * s1 + i % d2 * s2;
            let expected: Vec<f32> = (0..d0 * d1 * d2).map(|i| index(i) as f32).collect();
            assert!(file.tensor(name).unwrap().to_f32() == expected, "{name}");
        }
    }
}

/// Values that cannot be read do not make the rest of the file unreadable.
#[test]
fn unreadable_values_are_skipped() {
    use crate::common::pickle::{global, int, text, tuple, view};
    let floats = || pickle::storage("FloatStorage", "0", 16);
    let expanded = view(floats(), 0, &[1 << 20, 1 << 20], &[0, 0]);
    let axes = view(floats(), 0, &[1; 9], &[1; 9]);
    let surrogate = b"X\x03\0\0\0\xed\xa0\x80".to_vec();
    let wide = [b"\x8b\x09\0\0\0".as_slice(), &[1; 9]].concat();
    let small = b"\x8b\x02\0\0\0\x00\x01".to_vec();
    let numbers = [b"}(".as_slice(), &int(1), &text("a number"), &text("1"), &text("a text"), b"u"].concat();
    let parameter = pickle::call(
        &global("torch._tensor", "_rebuild_from_type_v2"),
        &[
            global("torch._utils", "_rebuild_tensor_v2"),
            global("a", "Subclass"),
            tuple(&[floats(), int(4), tuple(&[int(2)]), tuple(&[int(3)])]),
            b"N".to_vec(),
        ],
    );
    let parts = [
        ("w", pickle::tensor("0", &[16])),
        ("expanded", expanded),
        ("axes", axes),
        ("surrogate", surrogate),
        ("wide", wide),
        ("small", small),
        ("numbers", numbers),
        ("parameter", parameter),
    ];
    let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let storage: Vec<u8> = values.iter().copied().flat_map(f32::to_le_bytes).collect();
    let bytes = zip(&checkpoint(&pickle::pickle(&pickle::dict(&parts)), &[&storage]));
    let file = WeightFile::from_bytes("odd.pth", bytes).unwrap();
    assert_eq!(file.tensor("w").unwrap().to_f32(), values);
    assert_eq!(file.tensor("parameter").unwrap().to_f32(), [4.0, 7.0]);
    let error = file.tensor("expanded").unwrap_err();
    assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "expanded"), "{error}");
    let placeholder = |description: &str| json!({ "$python": description });
    let expected = json!({
        "axes": placeholder("a tensor of more than 8 axes"),
        "surrogate": placeholder("a string that is not UTF-8"),
        "wide": placeholder("an integer beyond 64 bits"),
        "small": 256,
        "numbers": { "$0": "a number", "1": "a text" },
    });
    assert_eq!(json!(file.values()), expected);
}

#[test]
fn vae_is_found() {
    for file in open("vae.ckpt") {
        assert_eq!(FileKind::of(&file), FileKind::Codec);
        let view = file.select("model.");
        let moments = 2 * StoredVae::find(&file).unwrap().config().latent_channels;
        assert_eq!(view.get("quant_conv.weight").unwrap().shape(), [moments, moments, 1, 1]);
        if let Some(golden) = Golden::find("vae") {
            assert!(golden.under("param.").count() > 0);
            for (name, tensor) in golden.under("param.") {
                assert_eq!(&view.tensor(name).unwrap(), tensor, "{name}");
            }
        }
        assert!(view.entries().all(|(name, _)| view.tensor(name).is_ok()));
    }
}

/// The pickle calls `system` with a command that writes a file. The reader must keep the call as a name or reject it.
#[test]
fn command_in_a_pickle_does_not_run() {
    let Some(path) = find("malicious.pth") else { return };
    let bytes = std::fs::read(&path).unwrap();
    let command = String::from_utf8_lossy(&bytes);
    let (_, trace) = command.split_once("> ").expect("the command writes a file");
    let end = trace.find(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER).unwrap();
    let trace = std::path::Path::new(&trace[..end]);
    assert!(trace.is_absolute(), "{}", trace.display());
    let written = || std::fs::metadata(trace).and_then(|metadata| metadata.modified()).ok();
    let before = written();
    for file in open("malicious.pth") {
        let values = json!(file.values()).to_string();
        assert!(values.contains("\"$python\"") && values.contains("system"), "{values}");
        file.entries().keys().for_each(|name| drop(file.tensor(name).unwrap()));
    }
    assert_eq!(written(), before, "the command ran");
}

/// Bits of the features of two classes.
fn features(model: &TransDiff<Cpu>) -> Vec<u64> {
    bits(model.features(&model.inference(), &[0, model.config().classes - 1], &[]).unwrap().tensor())
}

/// Writes the golden file's weights under `set` as a safetensors file with the published names and `metadata`.
fn rewritten(golden: &Golden, set: &str, metadata: &[(&str, String)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    write_atomic(file.path(), golden.under(set), &metadata).unwrap();
    file
}

#[test]
fn checkpoint_and_safetensors_file_give_the_same_model() {
    let golden = Golden::load("onestep_256");
    let (cpu, hints) = (Cpu::new(Some(1)).unwrap(), hints(&golden));
    for file in open("checkpoint-last.pth") {
        let choices = [
            (None, WeightSet::Ema, "ema."),
            (Some(WeightSet::Ema), WeightSet::Ema, "ema."),
            (Some(WeightSet::Raw), WeightSet::Raw, "param."),
        ];
        for (wanted, chosen, set) in choices {
            let source =
                StoredTransDiff::find(&file, &LoadHints { weights: wanted, ..hints.clone() }).unwrap();
            assert_eq!(source.weights(), chosen);
            let model = source.load(&cpu, DType::F32).unwrap();
            let config = serde_json::to_string(model.config()).unwrap();
            let saved = rewritten(&golden, set, &[(TransDiffConfig::METADATA_KEY, config)]);
            let other = TransDiff::load(&cpu, saved.path(), DType::F32).unwrap();
            assert_eq!(other.config(), model.config());
            assert_eq!(differing(&model, &other), Vec::<String>::new());
            assert_eq!(features(&model), features(&other));
            // Without the metadata the configuration is inferred from the shapes.
            let bare = rewritten(&golden, set, &[]);
            let bare = WeightFile::open(bare.path()).unwrap();
            assert_eq!(FileKind::of(&bare), FileKind::Model);
            assert_eq!(StoredTransDiff::find(&bare, &hints).unwrap().weights(), WeightSet::Single);
            let bare = TransDiff::from_file(&cpu, &bare, DType::F32, &hints).unwrap();
            assert_eq!((bare.config(), features(&bare)), (model.config(), features(&model)));
        }
        let error =
            StoredTransDiff::find(&file, &LoadHints { weights: Some(WeightSet::Single), ..hints.clone() })
                .unwrap_err();
        let expected = "expected a single set of weights, the file has EMA weights and raw weights";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn config_is_inferred_from_shapes() {
    for name in ["onestep_256", "onestep_512", "mrar_256"] {
        let golden = Golden::load(name);
        let file = rewritten(&golden, "param.", &[]);
        let file = WeightFile::open(file.path()).unwrap();
        let source = StoredTransDiff::find(&file, &hints(&golden)).unwrap();
        let config = source.config();
        let numbers = [
            ("embed_dim", config.width),
            ("heads", config.heads),
            ("encoder_blocks", config.encoder_blocks),
            ("decoder_blocks", config.decoder_blocks),
            ("classes", config.classes),
            ("buffer_size", config.buffer_size),
            ("seq_len", config.feature_tokens),
            ("latent_channels", config.latent_channels),
            ("img_size", 16 * config.latent_size),
        ];
        for (key, value) in numbers {
            assert_eq!(golden.value::<usize>(key), value, "{name}: {key}");
        }
        assert_eq!(golden.text("mrar") == "true", config.mode != Mode::OneStep, "{name}");
        source.load(&Cpu::new(Some(1)).unwrap(), DType::BF16).unwrap();
    }
}

#[test]
fn missing_heads_require_a_hint() {
    let golden = Golden::load("onestep_256");
    let (heads, width): (usize, usize) = (golden.value("heads"), golden.value("embed_dim"));
    for file in open("checkpoint-last.pth") {
        let error = StoredTransDiff::find(&file, &LoadHints::default()).unwrap_err();
        assert!(matches!(&error, Error::Format { path, .. } if path == file.path()), "{error}");
        assert!(error.to_string().contains("hint `heads`"), "{error}");
        let error =
            StoredTransDiff::find(&file, &LoadHints { heads: Some(width + 1), ..LoadHints::default() })
                .unwrap_err();
        assert!(matches!(&error, Error::Config { field: "heads", .. }), "{error}");
    }
    let bare = rewritten(&golden, "param.", &[]);
    let bare = WeightFile::open(bare.path()).unwrap();
    let config = StoredTransDiff::find(&bare, &hints(&golden)).unwrap().config().clone();
    let saved = rewritten(
        &golden,
        "param.",
        &[(TransDiffConfig::METADATA_KEY, serde_json::to_string(&config).unwrap())],
    );
    let saved = WeightFile::open(saved.path()).unwrap();
    StoredTransDiff::find(&saved, &hints(&golden)).unwrap();
    let error = StoredTransDiff::find(&saved, &LoadHints { heads: Some(heads + 1), ..LoadHints::default() })
        .unwrap_err();
    let expected = format!("the hint says {}, the metadata says {heads}", heads + 1);
    assert!(error.to_string().contains(&expected), "{error}");
}

/// Distributed training puts the prefix `module.` before every name.
#[test]
fn prefix_of_distributed_training_is_stripped() {
    let golden = Golden::load("onestep_256");
    let file = tempfile::NamedTempFile::new().unwrap();
    let named = |prefix: &'static str| golden.under("param.").map(move |(n, t)| (format!("{prefix}{n}"), t));
    write_atomic(file.path(), named("model.module."), &Default::default()).unwrap();
    let cpu = Cpu::new(Some(1)).unwrap();
    let opened = WeightFile::open(file.path()).unwrap();
    assert_eq!(FileKind::of(&opened), FileKind::Model);
    TransDiff::from_file(&cpu, &opened, DType::F32, &hints(&golden)).unwrap();
    // An extra tensor is an error under the prefix as well.
    let extra = HostTensor::new(&[1], HostData::F32(vec![0.0])).unwrap();
    let more = [("model.module.more".to_owned(), &extra)];
    write_atomic(file.path(), named("model.module.").chain(more), &Default::default()).unwrap();
    let opened = WeightFile::open(file.path()).unwrap();
    let error = TransDiff::from_file(&cpu, &opened, DType::F32, &hints(&golden)).unwrap_err();
    assert!(
        matches!(&error, Error::TensorNames { extra, missing, .. } if missing.is_empty() && extra == &["model.module.more"]),
        "{error}"
    );
}

/// A checkpoint of the golden file's weights with the arguments `args`.
fn with_args(golden: &Golden, args: &[(&str, Vec<u8>)]) -> WeightFile {
    let mut tensors = Vec::new();
    let mut storages = Vec::new();
    for (name, tensor) in golden.under("param.") {
        let shape: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
        tensors.push((name, pickle::tensor(&storages.len().to_string(), &shape)));
        storages.push(tensor.to_f32().into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    }
    let model = pickle::dict(&tensors);
    let parts = [("model", model), ("model_ema", b"N".to_vec()), ("args", pickle::namespace(args))];
    let storages: Vec<&[u8]> = storages.iter().map(Vec::as_slice).collect();
    let bytes = zip(&checkpoint(&pickle::pickle(&pickle::dict(&parts)), &storages));
    WeightFile::from_bytes("with-args.pth", bytes).unwrap()
}

/// The error names the argument and the shape that contradict each other.
#[test]
fn arguments_that_contradict_the_shapes_are_rejected() {
    use crate::common::pickle::{boolean, int, text};
    let golden = Golden::load("onestep_256");
    let hints = hints(&golden);
    let img_size = golden.value::<i64>("img_size");
    let agreeing =
        [("img_size", int(img_size)), ("class_num", int(golden.value("classes"))), ("mrar", boolean(false))];
    let file = with_args(&golden, &agreeing);
    let source = StoredTransDiff::find(&file, &hints).unwrap();
    assert_eq!(source.weights(), WeightSet::Raw);
    assert_eq!(source.config().heads, hints.heads.unwrap());
    let model = source.load(&Cpu::new(Some(1)).unwrap(), DType::F32).unwrap();
    assert_eq!(&bits(model.params()[0].1.value()), &golden_bits(&golden, "param.class_emb.weight"));

    let contradicting = [
        ("img_size", int(2 * img_size)),
        ("vae_embed_dim", int(golden.value::<i64>("latent_channels") + 1)),
        ("buffer_size", int(golden.value::<i64>("buffer_size") + 1)),
        ("class_num", int(golden.value::<i64>("classes") + 1)),
        ("patch_size", int(2)),
        ("mrar", boolean(true)),
        ("model", text("transdiff_huge")),
        ("num_heads", int(golden.value::<i64>("heads") + 1)),
    ];
    for (name, value) in contradicting {
        let file = with_args(&golden, &[(name, value)]);
        let error = StoredTransDiff::find(&file, &hints).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, Error::Format { .. }), "{name}: {text}");
        assert!(
            text.starts_with("with-args.pth") && text.contains("args") && text.contains("says"),
            "{name}: {text}"
        );
        assert!(name.contains("heads") || name == "model" || text.contains(name), "{name}: {text}");
    }
    let file = with_args(&golden, &[("heads", int(golden.value("heads")))]);
    let source = StoredTransDiff::find(&file, &LoadHints::default()).unwrap();
    assert_eq!(Some(source.config().heads), hints.heads);
}

fn golden_bits(golden: &Golden, name: &str) -> Vec<u64> {
    golden.tensor(name).to_f64().into_iter().map(f64::to_bits).collect()
}

/// A sparse safetensors file with the names and shapes of a published model and no values.
fn sparse_file(config: &TransDiffConfig) -> tempfile::NamedTempFile {
    let model = TransDiff::placeholder(&Cpu::new(Some(1)).unwrap(), config, DType::F32).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, param) in model.params() {
        let start = end;
        end += 4 * param.value().numel();
        let entry = json!({"dtype": "F32", "shape": param.value().shape(), "data_offsets": [start, end]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    file.as_file().set_len((8 + header.len() + end) as u64).unwrap();
    file
}

/// The number of heads of a published model follows from its width and depth.
#[test]
fn published_models_need_no_hint() {
    for size in [Size::Base, Size::Large, Size::Huge] {
        for mode in [Mode::OneStep, Mode::MultiReference { groups: 4 }] {
            let config = TransDiffConfig::published(size, 256, mode).unwrap();
            let file = sparse_file(&config);
            let file = WeightFile::open(file.path()).unwrap();
            let source = StoredTransDiff::find(&file, &LoadHints::default()).unwrap();
            assert_eq!(source.config(), &config);
        }
    }
}
