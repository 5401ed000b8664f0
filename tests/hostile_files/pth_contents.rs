//! PyTorch checkpoints with unusual tensors, and with much data beside them.

use super::Case;
use super::archive::{checkpoint, zip};
use super::pickle::*;
use super::pth::{built, floats, model};

pub fn cases() -> Vec<Case> {
    let mut out = tensors();
    out.extend(beside());
    out
}

/// Functions that build tensors, and what is added to their results.
fn tensors() -> Vec<Case> {
    let arguments = |metadata: Vec<u8>| {
        let hooks = call(&global("collections", "OrderedDict"), &[]);
        [floats("0", 16), int(0), tuple(&[int(16)]), tuple(&[int(1)]), boolean(false), hooks, metadata]
    };
    let rebuild = |metadata| call(&global("torch._utils", "_rebuild_tensor_v2"), &arguments(metadata));
    let with_state = |state: Vec<u8>| [tensor("0", &[16]), state, b"b".to_vec()].concat();
    let four = tuple(&[floats("1", 16), int(0), tuple(&[int(16)]), tuple(&[int(1)])]);
    let dtype =
        [call(&global("numpy", "dtype"), &[text("f4")]).as_slice(), &tuple(&[int(3), text("<")]), b"b"]
            .concat();
    let array = |bytes: Vec<u8>| {
        let new = call(
            &global("numpy.core.multiarray", "_reconstruct"),
            &[global("numpy", "ndarray"), tuple(&[int(0)]), text("b")],
        );
        let state = tuple(&[int(1), tuple(&[int(2)]), dtype.clone(), boolean(false), bytes]);
        [new, state, b"b".to_vec()].concat()
    };
    let encoded = |latin1: &str| call(&global("_codecs", "encode"), &[text(latin1), text("latin1")]);
    let nested_parameters = (0..200)
        .fold(tensor("0", &[16]), |inner, _| call(&global("torch._utils", "_rebuild_parameter"), &[inner]));
    let array_of_a_tensor = call(
        &global("torch._utils", "_rebuild_device_tensor_from_numpy"),
        &[tensor("0", &[16]), global("torch", "float32")],
    );
    vec![
        Case::accepted("tensor_negated", model(rebuild(dict(&[("neg", boolean(true))])))),
        Case::accepted("tensor_with_unset_properties", model(rebuild(dict(&[("neg", boolean(false))])))),
        Case::rejected(
            "tensor_conjugated",
            model(rebuild(dict(&[("conj", boolean(true))]))),
            "got conj: a bool",
        ),
        Case::rejected("tensor_with_state", model(with_state(four)), "a state that replaces its values"),
        Case::accepted("tensor_with_attributes", model(with_state(dict(&[("tag", int(1))])))),
        Case::accepted("parameters_nested_deep", model(nested_parameters)),
        Case::rejected("array_of_a_tensor", model(array_of_a_tensor), "a tensor of a numpy array"),
        Case::accepted("array", model(array([b"C\x08".as_slice(), &[0; 8]].concat()))),
        Case::accepted("array_as_text", model(array(encoded("\0\0\u{80}\u{3f}\0\0\0\0")))),
        Case::rejected("array_too_short", model(array(b"C\x04abcd".to_vec())), "elements of shape [2]"),
        Case::rejected("array_as_short_text", model(array(encoded("abcdefg"))), "elements of shape [2]"),
        Case::rejected(
            "array_as_wrong_text",
            model(array(encoded("\u{80}\u{80}\u{80}\u{80}\u{80}"))),
            "elements",
        ),
        Case::rejected("array_as_wide_text", model(array(encoded("abcde\u{3b1}"))), "elements"),
    ]
}

/// Unneeded data beside a tensor, in sizes that logs reach.
fn beside() -> Vec<Case> {
    let float = |i: usize| [b"G".as_slice(), &(i as f64 * 0.5).to_be_bytes()].concat();
    let batches = |n: usize, one: &dyn Fn(usize) -> Vec<u8>| -> Vec<u8> {
        let batch = |start: usize| {
            [b"(".to_vec(), (start..n.min(start + 1000)).flat_map(one).collect(), b"e".to_vec()].concat()
        };
        [b"]".to_vec(), (0..n).step_by(1000).flat_map(batch).collect()].concat()
    };
    let beside = |value: Vec<u8>| built(&dict(&[("log", value), ("w", tensor("0", &[16]))]));
    let put = |i: usize| [b"r".as_slice(), &(i as u32 + 100).to_le_bytes()].concat();
    let record = |i: usize| {
        [
            b"}",
            put(i).as_slice(),
            b"(",
            &text("step"),
            &int(i as i64),
            &text("loss"),
            &float(i),
            &text("lr"),
            &float(i),
            b"u",
        ]
        .concat()
    };
    let path = |i: usize| [text(&format!("/data/imagenet/train/n{i:08}.JPEG")), put(i)].concat();
    // Small tensors as torch.save writes them, with what they share in the memo.
    let names = [
        global("torch._utils", "_rebuild_tensor_v2"),
        text("storage"),
        global("torch", "FloatStorage"),
        text("cpu"),
    ];
    let hooks = global("collections", "OrderedDict");
    let shared: Vec<u8> = names
        .into_iter()
        .chain([hooks])
        .zip(0..)
        .flat_map(|(value, i)| [value, vec![b'q', i, b'0']].concat())
        .collect();
    let small = |i: usize| {
        let [key, storage, size, step, hooks, arguments, tensor] =
            [0, 1, 2, 3, 4, 5, 6].map(|n| put(7 * i + n));
        [
            b"h\0((h\x01h\x02".as_slice(),
            &text(&i.to_string()),
            &key,
            b"h\x03K\x20t",
            &storage,
            b"QK\0K\x20\x85",
            &size,
            b"K\x01\x85",
            &step,
            b"\x89h\x04)R",
            &hooks,
            b"t",
            &arguments,
            b"R",
            &tensor,
        ]
        .concat()
    };
    // PyTorch aligns storages to 64 bytes.
    let storages = vec![[0; 128].as_slice(); 60_000];
    let tensors = [shared, dict(&[("log", batches(60_000, &small)), ("w", tensor("0", &[32]))])].concat();
    let tensors = zip(&checkpoint(&pickle(&tensors), &storages));
    let numbers: Vec<u8> = (0..100_000).flat_map(|i| [int(i), b"K\0".to_vec()].concat()).collect();
    let large = [b"}q\0(".as_slice(), &numbers, &text("w"), &tensor("0", &[16]), b"u"].concat();
    let many_times = model([b"](".as_slice(), &large, &b"h\0".repeat(20_000), b"e"].concat());
    let scalar = |i: usize| {
        let bytes = [b"C\x08".as_slice(), &(i as f64).to_le_bytes()].concat();
        [b"h\0N".as_slice(), &bytes, &put(3 * i), b"\x86", &put(3 * i + 1), b"R", &put(3 * i + 2)].concat()
    };
    let scalars = [global("numpy.core.multiarray", "scalar").as_slice(), b"q\x000"].concat();
    vec![
        Case::accepted("log_of_floats", beside(batches(100_000, &float))),
        Case::accepted("log_of_2_million_floats", beside(batches(2_000_000, &float))),
        Case::accepted("log_of_records", beside(batches(30_000, &record))),
        Case::accepted("log_of_paths", beside(batches(100_000, &path))),
        Case::accepted("log_of_scalars", beside([scalars, batches(100_000, &scalar)].concat())),
        Case::accepted("log_of_tensors", tensors),
        Case::accepted("tensor_in_a_large_dictionary_many_times", many_times),
    ]
}
