//! Round trips, and rejection of invalid safetensors files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{DType, Error, HostData, HostTensor, Result};

pub(super) struct Folder(pub(super) TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn model_path(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    /// Writes a file with the header `header` and the bytes `data`, consistent or not.
    pub(super) fn raw(&self, header: &Value, data: &[u8]) -> PathBuf {
        let text = header.to_string();
        self.bytes(&[&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat())
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> PathBuf {
        fs::write(self.model_path(), bytes).unwrap();
        self.model_path()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub(super) fn entry(dtype: &str, shape: &[usize], start: usize, end: usize) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

pub(super) fn sample() -> BTreeMap<String, HostTensor> {
    let bf = [1.0, -2.5, 3e38].map(bf16::from_f32).to_vec();
    [
        ("b.weight", HostTensor::new(&[3], HostData::BF16(bf))),
        ("a.weight", HostTensor::f32(&[2, 3], vec![0.0, -0.0, f32::MIN_POSITIVE, 1.5, f32::MAX, -7.0])),
        ("c", HostTensor::new(&[], HostData::F64(vec![std::f64::consts::PI]))),
        ("labels", HostTensor::new(&[2], HostData::I32(vec![i32::MIN, 9]))),
        ("empty", HostTensor::f32(&[0, 4], vec![])),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor.unwrap()))
    .collect()
}

pub(super) fn notes() -> BTreeMap<String, String> {
    [("step", "7"), ("config", "{\"width\": 96}"), ("größe", "ß\n")].map(|(k, v)| (k.into(), v.into())).into()
}

type Tensors = BTreeMap<String, HostTensor>;

/// Reads every tensor of the file.
fn tensors(file: &WeightFile) -> Result<Tensors> {
    file.entries().keys().map(|name| Ok((name.clone(), file.tensor(name)?))).collect()
}

/// Reads every tensor from disk, from memory and from a map, and checks that the results are identical.
pub(super) fn read(path: &Path) -> Result<Tensors> {
    let read = WeightFile::open(path).and_then(|file| tensors(&file));
    if !path.is_file() {
        return read;
    }
    let bytes: Arc<[u8]> = fs::read(path).unwrap().into();
    // SAFETY: no other process knows the temporary file.
    let mapped = unsafe { WeightFile::open_mapped(path) };
    for other in [mapped, WeightFile::from_bytes(path, bytes)] {
        match (&read, other.and_then(|file| tensors(&file))) {
            (Ok(a), Ok(b)) => assert_eq!(*a, b),
            (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
            (a, b) => panic!("{a:?} and {b:?}"),
        }
    }
    read
}

/// Returns (expected, got) of the error of reading `path`, which must be about the tensor `name`.
#[track_caller]
fn tensor_error_of(path: PathBuf, name: &str) -> (String, String) {
    match read(&path).unwrap_err() {
        Error::Tensor { path: file, tensor, expected, got } => {
            assert_eq!((file, tensor.as_str()), (path, name));
            (expected, got)
        }
        other => panic!("expected an error about a tensor, got {other}"),
    }
}

/// Returns the message of the error of reading `path`, which must be about the file's format.
#[track_caller]
fn format_error_of(path: PathBuf) -> String {
    match read(&path).unwrap_err() {
        Error::Format { path: file, message } => {
            assert_eq!(file, path);
            message
        }
        other => panic!("expected an error about the format, got {other}"),
    }
}

#[test]
fn roundtrip_is_bitwise_identical() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(folder.model_path()).unwrap();
    assert_eq!((file.format(), file.path()), (Format::Safetensors, folder.model_path().as_path()));
    assert_eq!((read(&folder.model_path()).unwrap(), file.metadata()), (sample(), &notes()));
    assert!(file.tensor("a.weight").unwrap().to_f32()[1].is_sign_negative());
    let entry = &file.entries()["b.weight"];
    assert_eq!(
        (entry.dtype(), entry.shape(), entry.decoded()),
        (StoredDType::BF16, [3].as_slice(), Some(DType::BF16))
    );
    assert_eq!(folder.names(), ["model.safetensors"]);
}

#[test]
fn roundtrip_of_more_than_one_chunk() {
    let folder = Folder::new();
    let values: Vec<f64> = (0..100_001).map(f64::from).collect();
    let tensor = HostTensor::new(&[100_001], HostData::F64(values)).unwrap();
    write_atomic(folder.model_path(), [("x", &tensor)], &BTreeMap::new()).unwrap();
    assert_eq!(read(&folder.model_path()).unwrap()["x"], tensor);
}

#[test]
fn equal_contents_give_equal_bytes_readable_by_the_safetensors_crate() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let bytes = fs::read(folder.model_path()).unwrap();
    write_atomic(folder.model_path(), sample().iter().rev(), &notes()).unwrap();
    assert_eq!(bytes, fs::read(folder.model_path()).unwrap());
    let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), 5);
    assert_eq!(read.tensor("a.weight").unwrap().shape(), [2, 3]);
    let aligned = |t: ::safetensors::tensor::TensorView<'_>| {
        (t.data().as_ptr() as usize - bytes.as_ptr() as usize).is_multiple_of(t.dtype().bitsize() / 8)
    };
    assert!(read.iter().all(|(_, t)| aligned(t)));
}

#[test]
fn f16_and_i64_become_f32_and_i32() {
    let folder = Folder::new();
    let halves = [f16::from_f32(0.5), f16::MAX].map(f16::to_le_bytes).concat();
    let longs = [-3i64, 1000].map(i64::to_le_bytes).concat();
    let header = json!({"h": entry("F16", &[2], 0, 4), "l": entry("I64", &[2], 4, 20)});
    let file = read(&folder.raw(&header, &[halves, longs].concat())).unwrap();
    assert_eq!(file["h"].data(), &HostData::F32(vec![0.5, 65504.0]));
    assert_eq!(file["l"].data(), &HostData::I32(vec![-3, 1000]));
}

#[test]
fn i64_outside_i32_is_rejected() {
    let folder = Folder::new();
    let path = folder.raw(&json!({"l": entry("I64", &[1], 0, 8)}), &(1i64 << 31).to_le_bytes());
    assert_eq!(tensor_error_of(path, "l").1, "2147483648");
}

#[test]
fn missing_file_and_directory_are_rejected() {
    let folder = Folder::new();
    assert!(
        matches!(WeightFile::open(folder.model_path()), Err(Error::Io { path, .. }) if path == folder.model_path())
    );
    assert!(format_error_of(folder.0.path().to_owned()).contains("not a regular file"));
}

#[cfg(unix)]
#[test]
fn named_pipe_is_rejected_without_blocking() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let path = std::ffi::CString::new(folder.model_path().as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    assert!(format_error_of(folder.model_path()).contains("not a regular file"));
}

#[test]
fn truncation_at_any_byte_is_rejected() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let bytes = fs::read(folder.model_path()).unwrap();
    assert!(format_error_of(folder.bytes(&[])).contains("an empty file"));
    for len in 1..bytes.len() {
        let message = format_error_of(folder.bytes(&bytes[..len]));
        assert!(message.contains("truncated"), "{len}: {message}");
    }
}

#[test]
fn file_truncated_while_open_gives_an_error() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(folder.model_path()).unwrap();
    fs::OpenOptions::new().write(true).open(folder.model_path()).unwrap().set_len(20).unwrap();
    let error = file.tensor("a.weight").unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == folder.model_path()));
    assert!(error.to_string().contains("tensor a.weight: "), "{error}");
    let error = file.tensor("absent").unwrap_err();
    assert!(matches!(error, Error::TensorNames { missing, .. } if missing == ["absent"]));
}

#[test]
fn trailing_bytes_are_rejected() {
    let folder = Folder::new();
    let path = folder.raw(&json!({"a": entry("F32", &[1], 0, 4)}), &[0; 5]);
    assert!(format_error_of(path).contains("too long"));
}

#[test]
fn oversized_header_length_is_rejected() {
    let folder = Folder::new();
    for length in [u64::MAX, 1 << 40, 100_000_001] {
        let path = folder.bytes(&[length.to_le_bytes().as_slice(), b"{}"].concat());
        let expected = format!("its header has {length} bytes, at most 100000000 are allowed");
        assert_eq!(format_error_of(path), expected);
    }
}

#[test]
fn header_that_is_not_json_is_rejected() {
    let folder = Folder::new();
    let trailing = "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},}";
    for text in ["", "[]", "{", "\u{0}", trailing] {
        let path = folder.bytes(&[&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat());
        assert!(format_error_of(path).contains("not a JSON object"), "{text}");
    }
    let nested = "[".repeat(100_000);
    let path = folder.bytes(&[&(nested.len() as u64).to_le_bytes(), nested.as_bytes()].concat());
    assert!(format_error_of(path).contains("not a JSON object"));
    let path = folder.raw(&json!({"__metadata__": {"step": 7}}), &[]);
    assert!(format_error_of(path).contains("__metadata__"));
}

#[test]
fn malformed_tensor_entry_is_rejected() {
    let folder = Folder::new();
    let entries = [
        json!(7),
        json!({"dtype": "F32", "shape": [1]}),
        json!({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [0, 4.5]}),
    ];
    for entry in entries {
        tensor_error_of(folder.raw(&json!({"a": entry}), &[0; 4]), "a");
    }
}

#[test]
fn unknown_dtype_is_rejected() {
    let folder = Folder::new();
    let (_, got) = tensor_error_of(folder.raw(&json!({"a": entry("Q8", &[1], 0, 1)}), &[0]), "a");
    assert!(got.contains("Q8"), "{got}");
}

#[test]
fn unsupported_dtype_is_rejected() {
    let folder = Folder::new();
    let (_, got) = tensor_error_of(folder.raw(&json!({"a": entry("U8", &[1], 0, 1)}), &[0]), "a");
    assert_eq!(got, "U8");
}

#[test]
fn shape_that_disagrees_with_its_offsets_is_rejected() {
    let folder = Folder::new();
    for (shape, start, end) in [(2, 0, 4), (1, 0, 8), (1, 4, 0), (1, 0, usize::MAX)] {
        tensor_error_of(folder.raw(&json!({"a": entry("F32", &[shape], start, end)}), &[0; 8]), "a");
    }
}

#[test]
fn overflowing_shape_is_rejected() {
    let folder = Folder::new();
    for shape in [&[usize::MAX, 2][..], &[usize::MAX / 2], &[1 << 32, 1 << 32, 0]] {
        tensor_error_of(folder.raw(&json!({"a": entry("F32", shape, 0, 0)}), &[]), "a");
    }
}

#[test]
fn overlapping_and_gapped_tensors_are_rejected() {
    let folder = Folder::new();
    for start in [0, 2, 6] {
        let header = json!({"a": entry("F32", &[1], 0, 4), "b": entry("F32", &[1], start, start + 4)});
        let (_, got) = tensor_error_of(folder.raw(&header, &[0; 8]), "b");
        assert!(got.contains("overlap"));
    }
}

#[test]
fn nonfinite_values_are_rejected() {
    let folder = Folder::new();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data = [1.0, bad].map(f32::to_le_bytes).concat();
        let path = folder.raw(&json!({"w": entry("F32", &[2], 0, 8)}), &data);
        let (expected, got) = tensor_error_of(path, "w");
        assert_eq!((expected.as_str(), got), ("finite values", format!("{bad} at element 1")));
    }
    let path = folder.raw(&json!({"h": entry("BF16", &[1], 0, 2)}), &bf16::NAN.to_le_bytes());
    tensor_error_of(path, "h");
    let path = folder.raw(&json!({"h": entry("F16", &[1], 0, 2)}), &f16::INFINITY.to_le_bytes());
    tensor_error_of(path, "h");
}

#[test]
fn view_check_reports_names_and_shapes() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(folder.model_path()).unwrap();
    let wants = |list: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        list.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect()
    };
    let some = wants(&[("a.weight", &[2, 3]), ("c", &[])]);
    file.select("a.").check(&wants(&[("weight", &[2, 3])])).unwrap();
    match file.select("").check(&[some, wants(&[("d", &[1])])].concat()).unwrap_err() {
        Error::TensorNames { missing, extra, .. } => {
            assert_eq!(
                (missing, extra),
                (vec!["d".into()], ["b.weight", "empty", "labels"].map(String::from).into())
            );
        }
        other => panic!("{other}"),
    }
    for (prefix, name, shape) in [("a.", "weight", [3, 2].as_slice()), ("lab", "els", &[2])] {
        let error = file.select(prefix).check(&wants(&[(name, shape)])).unwrap_err();
        assert!(matches!(error, Error::Tensor { tensor, .. } if tensor == format!("{prefix}{name}")));
    }
}

#[test]
fn bytes_of_some_elements_are_read_alone() {
    let folder = Folder::new();
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let tensor = HostTensor::f32(&[3, 4], values.clone()).unwrap();
    write_atomic(folder.model_path(), [("a", &tensor)], &notes()).unwrap();
    let file = WeightFile::open(folder.model_path()).unwrap();
    let expected: Vec<u8> = values[4..8].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(file.stored_bytes("a", 4..8).unwrap(), expected);
    assert!(file.stored_bytes("a", 12..12).unwrap().is_empty());
    let outside = file.stored_bytes("a", 8..13).unwrap_err().to_string();
    assert!(outside.ends_with("tensor a: expected elements within its 12, got 8 to 13"), "{outside}");
    assert!(matches!(file.stored_bytes("b", 0..1), Err(Error::TensorNames { .. })));
}
