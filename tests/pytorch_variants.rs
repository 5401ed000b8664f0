//! PyTorch checkpoints in the forms that other programs write: weights under any key, behind wrappers, in subclasses of
//! containers, as numpy arrays; EMA weights in any spelling; and data beside the weights.

mod common;

use common::archive::{Entry, checkpoint, zip};
use common::pickle::*;
use common::tiny;
use serde_json::{Value, json};
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::models::transdiff::StoredTransDiff;
use transdiff_core::models::vae::{StoredVae, Vae, VaeConfig};
use transdiff_core::models::{FileKind, LoadHints, WeightSet};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::{DType, Error};

/// Storages of a checkpoint that is being built.
#[derive(Default)]
struct Storages(Vec<Vec<u8>>);

impl Storages {
    fn add(&mut self, values: &[f32]) -> String {
        self.0.push(values.iter().copied().flat_map(f32::to_le_bytes).collect());
        (self.0.len() - 1).to_string()
    }

    /// Tensors of a module with `offset` added to every value, under the names that `rename` returns.
    fn weights(
        &mut self,
        module: &dyn Module<Reference>,
        offset: f32,
        rename: impl Fn(&str) -> String,
    ) -> Vec<(String, Vec<u8>)> {
        let mut out = Vec::new();
        for (name, param) in module.params() {
            let host = param.value().to_host().unwrap();
            let values: Vec<f32> = host.to_f32().iter().map(|x| x + offset).collect();
            let shape: Vec<i64> = host.shape().iter().map(|&n| n as i64).collect();
            out.push((rename(&name), tensor(&self.add(&values), &shape)));
        }
        out
    }

    /// State dict of the tiny model.
    fn model(&mut self, offset: f32, rename: impl Fn(&str) -> String) -> Vec<u8> {
        let model = tiny::model(&Reference, &tiny::one_step(), DType::F32);
        named(&self.weights(&model, offset, rename))
    }

    fn archive(&self, root: &[u8]) -> Vec<Entry> {
        checkpoint(&pickle(root), &self.0.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn file(&self, root: &[u8]) -> WeightFile {
        open(zip(&self.archive(root)))
    }
}

fn open(bytes: Vec<u8>) -> WeightFile {
    WeightFile::from_bytes("test.pth", bytes).unwrap()
}

fn open_error(bytes: Vec<u8>) -> String {
    WeightFile::from_bytes("test.pth", bytes).unwrap_err().to_string()
}

fn named(items: &[(String, Vec<u8>)]) -> Vec<u8> {
    dict(&items.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>())
}

fn hints() -> LoadHints {
    LoadHints { heads: Some(2), ..LoadHints::default() }
}

fn raw() -> LoadHints {
    LoadHints { weights: Some(WeightSet::Raw), ..hints() }
}

fn under(key: &str) -> LoadHints {
    LoadHints { key: Some(key.to_owned()), ..hints() }
}

/// Set that is found, and the offset that was added to its values.
fn found(file: &WeightFile, hints: &LoadHints) -> Result<(WeightSet, f32), Error> {
    let stored = StoredTransDiff::find(file, hints)?;
    let model = stored.load(&Reference, DType::F32)?;
    let plain = tiny::model(&Reference, &tiny::one_step(), DType::F32);
    let first = |model: &dyn Module<Reference>| model.params()[0].1.value().to_host().unwrap().to_f32()[0];
    Ok((stored.weights(), (first(&model) - first(&plain)).round()))
}

#[track_caller]
fn assert_refused(file: &WeightFile, hints: &LoadHints, parts: &[&str]) {
    let error = found(file, hints).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "expected {parts:?} in: {error}");
}

fn plain(name: &str) -> String {
    name.to_owned()
}

#[test]
fn ema_weights_are_found_under_any_key_and_behind_wrappers() {
    for key in
        ["model_ema", "ema", "ema_state_dict", "params_ema", "EMA", "netG_ema", "averaged_model", "shadow"]
    {
        let mut storages = Storages::default();
        let model = storages.model(0.0, plain);
        let ema = storages.model(2.0, |name| format!("_orig_mod.module.{name}"));
        let file = storages.file(&dict(&[("model", model), (key, ema)]));
        assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Ema, 2.0), "{key}");
        assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0), "{key}");
    }
}

#[test]
fn ema_weights_that_are_not_understood_are_refused_unless_raw_ones_are_asked_for() {
    let instance = |class: &str| [global("ema_pytorch", class).as_slice(), b")\x81"].concat();
    let unknown: [(&str, fn(&mut Storages) -> Vec<u8>); 4] = [
        ("model_ema", |s| list(&[tensor(&s.add(&[0.5; 4]), &[4])])),
        ("ema_state_dict", |s| s.model(2.0, |name| name.replace('.', ""))),
        ("ema", |s| dict(&[("shadow_params", list(&[tensor(&s.add(&[0.5; 4]), &[2, 2])]))])),
        ("optim.ema_model", |s| tensor(&s.add(&[0.5; 4]), &[4])),
    ];
    for (key, make) in &unknown[..3] {
        let mut storages = Storages::default();
        let (model, ema) = (storages.model(0.0, plain), make(&mut storages));
        let file = storages.file(&dict(&[("model", model), (key, ema)]));
        assert_refused(&file, &hints(), &[key, "--weights raw", "hint `weights`"]);
        assert_refused(&file, &LoadHints { weights: Some(WeightSet::Ema), ..hints() }, &[key]);
        assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0), "{key}");
        assert_eq!(found(&file, &under("model")).unwrap(), (WeightSet::Raw, 0.0), "{key}");
    }
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let file = storages.file(&dict(&[("state_dict", model.clone()), ("ema", instance("EMA"))]));
    assert_refused(&file, &hints(), &["ema seems to hold", "--weights raw"]);
    assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0));

    // Neither of these holds weights.
    let scalar = view(storage("FloatStorage", &storages.add(&[0.9]), 1), 0, &[], &[]);
    let file = storages.file(&dict(&[
        ("model", model),
        ("model_ema", b"N".to_vec()),
        ("ema_decay", scalar),
        ("ema_args", dict(&[("decay", int(1)), ("dtype", global("torch", "float32"))])),
    ]));
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Raw, 0.0));
}

#[test]
fn wrappers_are_ignored_anywhere_in_a_name() {
    let renames: [fn(&str) -> String; 4] = [
        |name| format!("_orig_mod.{name}"),
        |name| format!("module._orig_mod.{name}"),
        |name| name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        |name| {
            format!("_fsdp_wrapped_module.{}", name.replace("_blocks.0.", "_blocks.0._fsdp_wrapped_module."))
        },
    ];
    let vae = vae();
    for (i, rename) in renames.into_iter().enumerate() {
        let mut storages = Storages::default();
        let model = storages.model(0.0, rename);
        assert_eq!(found(&storages.file(&model), &hints()).unwrap().1, 0.0, "{i}");
        let vae = named(&storages.weights(&vae, 0.0, rename));
        let file = storages.file(&dict(&[("state_dict", vae)]));
        assert_eq!(FileKind::of(&file), FileKind::Codec);
        StoredVae::find(&file).unwrap().load(&Reference, DType::F32).unwrap();
    }
}

#[test]
fn two_spellings_of_one_name_are_refused() {
    let mut storages = Storages::default();
    let model = tiny::model(&Reference, &tiny::one_step(), DType::F32);
    let mut weights = storages.weights(&model, 0.0, plain);
    weights.push(("module.class_emb.weight".to_owned(), weights[0].1.clone()));
    let file = storages.file(&named(&weights));
    assert_refused(&file, &hints(), &["module.class_emb.weight", "apart from wrappers", "class_emb.weight"]);
}

#[test]
fn weights_are_found_under_any_key() {
    let prefixed = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    for (keys, prefix) in [
        (&["state_dict"][..], ""),
        (&["model_state_dict"], ""),
        (&["params"], "module."),
        (&["net_g"], ""),
        (&["state_dict"], "model."),
        (&["checkpoint", "state", "generator"], "net.inner."),
    ] {
        let mut storages = Storages::default();
        let model = storages.model(0.0, prefixed(prefix));
        let noise = storages.model(3.0, |name| format!("{name}.exp_avg"));
        let nested = keys.iter().rev().fold(model, |inner, key| dict(&[(key, inner), ("epoch", int(3))]));
        let root = [nested, text("optimizer_states"), noise, b"s".to_vec()].concat();
        let file = storages.file(&root);
        assert_eq!(FileKind::of(&file), FileKind::Model, "{keys:?}");
        assert_eq!(found(&file, &hints()).unwrap().1, 0.0, "{keys:?}");
    }
}

fn vae() -> Vae<Reference> {
    let config = VaeConfig {
        image_channels: 3,
        latent_channels: 2,
        channels: 32,
        multipliers: vec![1, 1],
        res_blocks: 1,
        attention: vec![],
    };
    Vae::new(&Reference, &config, DType::F32, 3).unwrap()
}

#[test]
fn model_and_vae_in_one_file_are_told_apart() {
    let mut storages = Storages::default();
    let mut items = storages.weights(&vae(), 0.0, |name| format!("first_stage_model.{name}"));
    let vae_only = storages.file(&dict(&[("state_dict", named(&items))]));
    assert_eq!(FileKind::of(&vae_only), FileKind::Codec);
    items.extend(storages.weights(&tiny::model(&Reference, &tiny::one_step(), DType::F32), 1.0, |name| {
        format!("model.{name}")
    }));
    let file = storages.file(&dict(&[("state_dict", named(&items))]));
    assert_eq!(FileKind::of(&file), FileKind::Model);
    assert_eq!(found(&file, &hints()).unwrap().1, 1.0);
    let key = "state_dict.first_stage_model";
    assert_eq!(FileKind::under(&file, Some(key)), FileKind::Codec);
    for file in [&vae_only, &file] {
        let stored = StoredVae::find_with(file, &under(key)).unwrap();
        stored.load(&Reference, DType::F32).unwrap();
    }
}

#[test]
fn one_of_several_sets_is_chosen_by_its_key() {
    let mut storages = Storages::default();
    let [a, b, ema] = [1.0, 2.0, 3.0].map(|offset| storages.model(offset, plain));
    let adam = storages.model(4.0, plain);
    let file =
        storages.file(&dict(&[("a", a.clone()), ("nested", dict(&[("b", b.clone())])), ("adam_m", adam)]));
    assert_refused(&file, &hints(), &["several sets", "a, nested.b", "--key KEY"]);
    assert_eq!(found(&file, &under("a")).unwrap().1, 1.0);
    assert_eq!(found(&file, &under("nested")).unwrap().1, 2.0);
    assert_eq!(found(&file, &under("nested.b")).unwrap().1, 2.0);
    assert_refused(&file, &under("c"), &["under the key c", "a, nested.b"]);
    let top = [storages.model(0.0, plain), text("a"), a.clone(), b"s".to_vec()].concat();
    assert_eq!(found(&storages.file(&top), &under("")).unwrap().1, 0.0);
    let file = storages.file(&dict(&[("a", a), ("b", b), ("a_ema", ema)]));
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Ema, 3.0));
    assert_refused(&file, &raw(), &["a, b"]);
    assert_eq!(found(&file, &under("b")).unwrap(), (WeightSet::Single, 2.0));
}

#[test]
fn error_names_what_the_file_has_instead() {
    let mut storages = Storages::default();
    let file = storages
        .file(&dict(&[("epoch", int(3)), ("net", dict(&[("w", tensor(&storages.add(&[0.5]), &[1]))]))]));
    assert_refused(&file, &hints(), &["expected a TransDiff model", "epoch, net"]);
    let embedding = tensor(&storages.add(&[0.5]), &[1]);
    let file = storages.file(&dict(&[("net", dict(&[("class_emb.weight", embedding)]))]));
    assert_refused(&file, &hints(), &["net.class_emb.weight", "under net"]);
    let module =
        [global("__main__", "Net").as_slice(), b")\x81", &dict(&[("_modules", dict(&[]))]), b"b"].concat();
    let file = storages.file(&dict(&[("model", module.clone()), ("epoch", int(3))]));
    assert_refused(&file, &hints(), &["model is an instance of __main__.Net", "state_dict()"]);
    let whole = open_error(zip(&storages.archive(&module)));
    assert!(
        whole.contains("a whole module of class __main__.Net") && whole.contains("model.state_dict()"),
        "{whole}"
    );
}

#[test]
fn items_of_subclasses_are_kept() {
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let items = model[1..].to_vec(); // without the empty dictionary
    let state = dict(&[("frozen", boolean(true))]);
    let new = |class: &str| [global("__main__", class).as_slice(), b")\x81"].concat();
    let called = call(&global("__main__", "Ordered"), &[]);
    let default = call(&global("collections", "defaultdict"), &[global("builtins", "list")]);
    let old = call(
        &global("copy_reg", "_reconstructor"),
        &[global("m", "D"), global("builtins", "dict"), model.clone()],
    );
    for (name, dictionary) in [
        ("attributes", [new("AttrDict"), items.clone()].concat()),
        ("attributes with a state", [new("AttrDict"), items.clone(), state, b"b".to_vec()].concat()),
        (
            "attributes that are the items",
            [new("A"), b"r\x09\0\0\0".to_vec(), items.clone(), b"j\x09\0\0\0b".to_vec()].concat(),
        ),
        ("ordered", [called, items.clone()].concat()),
        ("default", [default, items.clone()].concat()),
        ("protocol 1", old),
    ] {
        let file = storages.file(&dict(&[("model", dictionary.clone())]));
        assert_eq!(found(&file, &hints()).unwrap().1, 0.0, "{name}");
        assert_eq!(found(&storages.file(&dictionary), &hints()).unwrap().1, 0.0, "{name} as the root");
    }
    let listed = [new("Lrs").as_slice(), b"(", &int(7), &text("x"), b"e"].concat();
    assert_eq!(storages.file(&dict(&[("lrs", listed)])).values()["lrs"], json!([7, "x"]));
}

fn rebuilt(function: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    call(&global("torch._utils", function), parts)
}

fn read(storages: &Storages, value: Vec<u8>) -> Result<Vec<f32>, String> {
    let file = storages.file(&dict(&[("w", value), ("ok", tensor("0", &[2]))]));
    assert_eq!(file.tensor("ok").unwrap().to_f32(), [1.0, 2.0], "another tensor is readable");
    file.tensor("w").map(|tensor| tensor.to_f32()).map_err(|error| error.to_string())
}

#[test]
fn arguments_that_change_values_are_honoured_or_refused() {
    let mut storages = Storages::default();
    storages.add(&[1.0, 2.0]);
    let none = || b"N".to_vec();
    let first = |class: &str, n| {
        [storage(class, "0", n), int(0), tuple(&[int(2)]), tuple(&[int(1)]), boolean(false), none()].to_vec()
    };
    let v2 = |metadata: Vec<u8>| {
        rebuilt("_rebuild_tensor_v2", &[first("FloatStorage", 2), vec![metadata]].concat())
    };
    let set = |key: &str, value: bool| dict(&[(key, boolean(value))]);
    assert_eq!(read(&storages, v2(set("neg", true))).unwrap(), [-1.0, -2.0]);
    assert_eq!(read(&storages, v2(set("neg", false))).unwrap(), [1.0, 2.0]);
    assert_eq!(read(&storages, v2(none())).unwrap(), [1.0, 2.0]);
    for key in ["conj", "zero", "backend"] {
        let error = read(&storages, v2(set(key, true))).unwrap_err();
        assert!(error.contains("tensor w") && error.contains(key), "{error}");
    }
    let wrapped = |tensor: Vec<u8>| {
        rebuilt("_rebuild_parameter_with_state", &[tensor, boolean(true), none(), dict(&[])])
    };
    assert_eq!(read(&storages, wrapped(v2(set("neg", true)))).unwrap(), [-1.0, -2.0]);
    let v3 = |dtype: &str, more: &[Vec<u8>]| {
        let parts = [first("UntypedStorage", 8), vec![global("torch", dtype)], more.to_vec()].concat();
        rebuilt("_rebuild_tensor_v3", &parts)
    };
    assert_eq!(read(&storages, v3("float32", &[])).unwrap(), [1.0, 2.0]);
    assert_eq!(read(&storages, v3("float32", &[set("neg", true)])).unwrap(), [-1.0, -2.0]);
    assert_eq!(read(&storages, v3("bfloat16", &[])).unwrap(), [0.0, 1.0]);
    let state = tuple(&[storage("FloatStorage", "0", 2), int(1), tuple(&[int(1)]), tuple(&[int(1)])]);
    let with = |state: &[u8]| [v2(none()).as_slice(), state, b"b"].concat();
    assert!(read(&storages, with(&state)).unwrap_err().contains("a state that replaces its values"));
    assert_eq!(read(&storages, with(&dict(&[("tag", int(1))]))).unwrap(), [1.0, 2.0]);
    for function in ["_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_meta_tensor_no_storage"] {
        let error = read(&storages, rebuilt(function, &first("FloatStorage", 2))).unwrap_err();
        assert!(error.contains("missing (w)"), "{error}");
    }
}

/// The array with the values 0.5, 1, -2, 4, 8, 16 as rows of three, in its state's bytes or in a buffer.
fn array(code: &str, order: &str, fortran: bool, data: Vec<u8>) -> Vec<u8> {
    let dtype = [
        call(&global("numpy", "dtype"), &[text(code), boolean(false), boolean(true)]),
        tuple(&[int(3), text(order), b"N".to_vec(), b"N".to_vec(), b"N".to_vec(), int(-1), int(-1), int(0)]),
        b"b".to_vec(),
    ];
    let reconstruct = global("numpy._core.multiarray", "_reconstruct");
    let empty = call(&reconstruct, &[global("numpy", "ndarray"), tuple(&[int(0)]), b"C\x01b".to_vec()]);
    let state = tuple(&[int(1), tuple(&[int(2), int(3)]), dtype.concat(), boolean(fortran), data]);
    [empty, state, b"b".to_vec()].concat()
}

#[test]
fn numpy_arrays_are_tensors() {
    const ROWS: [f32; 6] = [0.5, 1.0, -2.0, 4.0, 8.0, 16.0];
    const COLUMNS: [f32; 6] = [0.5, 4.0, 1.0, 8.0, -2.0, 16.0];
    let mut storages = Storages::default();
    storages.add(&[1.0, 2.0]);
    let singles = |values: [f32; 6]| values.map(f32::to_le_bytes).concat();
    let bytes = |bytes: &[u8]| [b"B".as_slice(), &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let encoded = |bytes: &[u8]| {
        let latin1: String = bytes.iter().map(|&b| char::from(b)).collect();
        call(&global("_codecs", "encode"), &[text(&latin1), text("latin1")])
    };
    let doubles = ROWS.map(|x| f64::from(x).to_le_bytes()).concat();
    for (name, value) in [
        ("bytes", array("f4", "<", false, bytes(&singles(ROWS)))),
        ("text", array("f4", "<", false, encoded(&singles(ROWS)))),
        ("columns", array("f4", "<", true, bytes(&singles(COLUMNS)))),
        ("columns as text", array("f4", "<", true, encoded(&singles(COLUMNS)))),
        ("doubles", array("f8", "<", false, encoded(&doubles))),
        (
            "halves",
            array("f2", "<", false, bytes(&ROWS.map(|x| half::f16::from_f32(x).to_le_bytes()).concat())),
        ),
    ] {
        assert_eq!(read(&storages, value).unwrap(), ROWS, "{name}");
    }
    let dtype =
        [call(&global("numpy", "dtype"), &[text("f4")]).as_slice(), &tuple(&[int(3), text("<")]), b"b"]
            .concat();
    let buffer = [b"\x96".as_slice(), &24u64.to_le_bytes(), &singles(COLUMNS)].concat();
    let parts = [buffer, dtype, tuple(&[int(2), int(3)]), text("F")];
    assert_eq!(read(&storages, call(&global("numpy._core.numeric", "_frombuffer"), &parts)).unwrap(), ROWS);
    let big = read(&storages, array("f4", ">", false, bytes(&singles(ROWS)))).unwrap_err();
    assert!(big.contains("tensor w") && big.contains("big-endian"), "{big}");
    let short = read(&storages, array("f4", "<", false, bytes(&[0; 20]))).unwrap_err();
    assert!(short.contains("shape [2, 3]") && short.contains("20 bytes"), "{short}");
}

#[test]
fn only_the_chosen_tensors_cause_errors() {
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let broken = || tensor("no such storage", &[4]);
    let outside = view(storage("FloatStorage", "0", 24), 20, &[24], &[1]);
    let negative = view(storage("FloatStorage", "0", 24), 0, &[-1], &[1]);
    let root = dict(&[("optimizer", list(&[broken(), outside, negative])), ("model", model.clone())]);
    assert_eq!(found(&storages.file(&root), &hints()).unwrap().1, 0.0);
    let items =
        [model[..model.len() - 1].to_vec(), text("class_emb.weight"), tensor("9999", &[3, 8]), b"u".to_vec()];
    let file = storages.file(&dict(&[("model", items.concat())]));
    assert_refused(&file, &hints(), &["class_emb.weight"]);
}

#[test]
fn data_that_is_too_large_is_skipped_and_small_data_is_kept() {
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let floats = |n: usize| {
        let float = |i: usize| [b"G".as_slice(), &(i as f64).to_be_bytes()].concat();
        [b"](".to_vec(), (0..n).flat_map(float).collect(), b"e".to_vec()].concat()
    };
    let records: Vec<Vec<u8>> =
        (0..30_000).map(|i| dict(&[("step", int(i)), ("loss", int(i)), ("lr", int(i))])).collect();
    let paths: Vec<Vec<u8>> = (0..100_000).map(|i| text(&format!("/data/train/{i}.JPEG"))).collect();
    let file = storages.file(&dict(&[
        ("losses", floats(2_000_000)),
        (
            "state",
            dict(&[("log", list(&records)), ("model", model), ("paths", list(&paths)), ("last", int(7))]),
        ),
        ("few", floats(100)),
        ("args", namespace(&[("heads", int(2))])),
    ]));
    assert_eq!(found(&file, &LoadHints::default()).unwrap().1, 0.0);
    let skipped = json!("… (skipped: too large)");
    let values = file.values();
    assert_eq!((&values["losses"], &values["args"]), (&skipped, &json!({ "heads": 2 })));
    assert_eq!(values["state"], json!({ "log": skipped, "paths": skipped, "last": 7 }));
    let few: Vec<Value> = (0..100).map(|i| json!(f64::from(i))).collect();
    assert_eq!(values["few"], json!(few));
}

#[test]
fn protocol_1_is_read() {
    let mut storages = Storages::default();
    let key = storages.add(&[1.0, 2.0]);
    let storage_code = [
        b"(".as_slice(),
        &text("storage"),
        &global("torch", "FloatStorage"),
        &text(&key),
        &text("cpu"),
        b"K\x02tQ",
    ]
    .concat();
    let arguments = [
        b"(".as_slice(),
        &storage_code,
        b"K\0(K\x02t(K\x01tI00\n",
        &global("collections", "OrderedDict"),
        b")Rt",
    ]
    .concat();
    let w = [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat();
    let body = [
        b"}q\0(".to_vec(),
        text("w"),
        w,
        text("wide"),
        b"L-12345678901L\n".to_vec(),
        text("rate"),
        b"F0.5\np7\n".to_vec(),
        text("again"),
        b"g7\n".to_vec(),
        text("yes"),
        b"I01\n".to_vec(),
        text("n"),
        b"I-3\n".to_vec(),
        b"u.".to_vec(),
    ];
    let entries = checkpoint(&body.concat(), &[&storages.0[0]]);
    let file = open(zip(&entries));
    assert_eq!(file.tensor("w").unwrap().to_f32(), [1.0, 2.0]);
    let expected = json!({ "wide": -12_345_678_901i64, "rate": 0.5, "again": 0.5, "yes": true, "n": -3 });
    assert_eq!(json!(file.values()), expected);
}

#[test]
fn bytes_after_the_archive_and_unused_compressed_entries_are_tolerated() {
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let root = dict(&[("model", model)]);
    let mut entries = storages.archive(&root);
    entries.push(Entry { method: 8, ..Entry::new("a/notes.json", b"deflated") });
    let file = open([zip(&entries), b"PK appended bytes".to_vec()].concat());
    assert_eq!(found(&file, &hints()).unwrap().1, 0.0);
    let storage = entries.iter().position(|entry| entry.name == "a/data/0").unwrap();
    entries[storage].method = 8;
    assert_refused(&open(zip(&entries)), &hints(), &["a/data/0", "compressed by method 8"]);
    let program =
        [Entry::new("a/constants.pkl", b""), Entry { method: 8, ..Entry::new("a/code/net.py", b"deflated") }];
    let error = open_error(zip(&[storages.archive(&root), program.to_vec()].concat()));
    assert!(error.contains("a TorchScript program"), "{error}");
}

#[test]
fn bare_pickles_are_named_truthfully() {
    let legacy =
        [b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".as_slice(), b"\x80\x02M\xe9\x03."]
            .concat();
    assert!(open_error(legacy).contains("before PyTorch 1.6"));
    let arrays = [
        b"\x80\x04\x95\x20\0\0\0\0\0\0\0".to_vec(),
        dict(&[("w", array("f4", "<", false, b"C\0".to_vec()))]),
        b".".to_vec(),
    ];
    let text_arrays = b"(dp0\nVw\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n";
    for (bytes, protocol) in
        [(arrays.concat(), 4), (pickle(&dict(&[("a", int(1))])), 2), (text_arrays.to_vec(), 0)]
    {
        let error = open_error(bytes);
        assert!(
            error.contains("a bare pickle") && error.contains(&format!("protocol {protocol}")),
            "{error}"
        );
        assert!(!error.contains("1.6"), "{error}");
    }
    assert!(open_error(text_arrays.to_vec()).contains("of numpy arrays"));
}
