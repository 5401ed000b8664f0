//! Contents of a checkpoint: subclasses of containers, functions that build tensors, numpy arrays, data beside the weights,
//! and what is not a checkpoint.

use serde_json::{Value, json};
use transdiff_core::models::LoadHints;

use super::*;
use crate::common::archive::{Entry, checkpoint, zip};
use crate::common::pickle::*;

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
    const HALVES: [u16; 6] = [0x3800, 0x3c00, 0xc000, 0x4400, 0x4800, 0x4c00];
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
        ("halves", array("f2", "<", false, bytes(&HALVES.map(u16::to_le_bytes).concat()))),
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
