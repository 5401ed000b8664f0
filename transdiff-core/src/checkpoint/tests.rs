//! Round trips, and every hostile file by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{DType, HostData, HostTensor, Result};

struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    /// A file with the header `header` and the bytes `data`, consistent or not.
    fn raw(&self, header: &Value, data: &[u8]) -> PathBuf {
        let text = header.to_string();
        self.bytes(&[&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat())
    }

    fn bytes(&self, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(), bytes).unwrap();
        self.path()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn entry(dtype: &str, shape: &[usize], start: usize, end: usize) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

fn sample() -> BTreeMap<String, HostTensor> {
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

fn notes() -> BTreeMap<String, String> {
    [("step", "7"), ("config", "{\"width\": 96}"), ("größe", "ß\n")].map(|(k, v)| (k.into(), v.into())).into()
}

type Tensors = BTreeMap<String, HostTensor>;

/// Every tensor of the file.
fn tensors(file: &WeightFile) -> Result<Tensors> {
    file.entries().keys().map(|name| Ok((name.clone(), file.tensor(name)?))).collect()
}

/// Reads every tensor in every way: the results are the same.
fn read(path: &Path) -> Result<Tensors> {
    let read = WeightFile::open(path).and_then(|file| tensors(&file));
    if !path.is_file() {
        return read;
    }
    let bytes: Arc<[u8]> = fs::read(path).unwrap().into();
    // SAFETY: the file is this test's own.
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

/// The error of reading `path`, which must be about `tensor`.
#[track_caller]
fn tensor_fault(path: PathBuf, name: &str) -> (String, String) {
    match read(&path).unwrap_err() {
        Error::Tensor { path: file, tensor, expected, got } => {
            assert_eq!((file, tensor.as_str()), (path, name));
            (expected, got)
        }
        other => panic!("not an error about a tensor: {other}"),
    }
}

/// The error of reading `path`, which must be about the file's format.
#[track_caller]
fn format_fault(path: PathBuf) -> String {
    match read(&path).unwrap_err() {
        Error::Format { path: file, message } => {
            assert_eq!(file, path);
            message
        }
        other => panic!("not an error about the format: {other}"),
    }
}

#[test]
fn roundtrip_keeps_every_bit() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(try_with_capacity.path()).unwrap();
    assert_eq!((file.format(), file.path()), (Format::Safetensors, try_with_capacity.path().as_path()));
    assert_eq!((read(&try_with_capacity.path()).unwrap(), file.metadata()), (sample(), &notes()));
    assert!(file.tensor("a.weight").unwrap().to_f32()[1].is_sign_negative());
    let entry = &file.entries()["b.weight"];
    assert_eq!(
        (entry.dtype(), entry.shape(), entry.decoded()),
        (StoredDType::BF16, [3].as_slice(), Some(DType::BF16))
    );
    assert_eq!(try_with_capacity.names(), ["model.safetensors"]);
}

#[test]
fn roundtrip_of_more_than_a_chunk() {
    let try_with_capacity = Room::new();
    let values: Vec<f64> = (0..100_001).map(f64::from).collect();
    let tensor = HostTensor::new(&[100_001], HostData::F64(values)).unwrap();
    write_atomic(try_with_capacity.path(), [("x", &tensor)], &BTreeMap::new()).unwrap();
    assert_eq!(read(&try_with_capacity.path()).unwrap()["x"], tensor);
}

#[test]
fn equal_contents_give_equal_bytes_that_the_crate_reads() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let bytes = fs::read(try_with_capacity.path()).unwrap();
    write_atomic(try_with_capacity.path(), sample().iter().rev(), &notes()).unwrap();
    assert_eq!(bytes, fs::read(try_with_capacity.path()).unwrap());
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
    let try_with_capacity = Room::new();
    let halves = [f16::from_f32(0.5), f16::MAX].map(f16::to_le_bytes).concat();
    let longs = [-3i64, 1000].map(i64::to_le_bytes).concat();
    let header = json!({"h": entry("F16", &[2], 0, 4), "l": entry("I64", &[2], 4, 20)});
    let file = read(&try_with_capacity.raw(&header, &[halves, longs].concat())).unwrap();
    assert_eq!(file["h"].data(), &HostData::F32(vec![0.5, 65504.0]));
    assert_eq!(file["l"].data(), &HostData::I32(vec![-3, 1000]));
}

#[test]
fn i64_out_of_range() {
    let try_with_capacity = Room::new();
    let path = try_with_capacity.raw(&json!({"l": entry("I64", &[1], 0, 8)}), &(1i64 << 31).to_le_bytes());
    assert_eq!(tensor_fault(path, "l").1, "2147483648");
}

#[test]
fn missing_file_and_directory() {
    let try_with_capacity = Room::new();
    assert!(
        matches!(WeightFile::open(try_with_capacity.path()), Err(Error::Io { path, .. }) if path == try_with_capacity.path())
    );
    assert!(format_fault(try_with_capacity.0.path().to_owned()).contains("not a regular file"));
}

/// Nor does opening one wait for its writer.
#[cfg(unix)]
#[test]
fn a_pipe_is_no_file() {
    use std::os::unix::ffi::OsStrExt;
    let try_with_capacity = Room::new();
    let path = std::ffi::CString::new(try_with_capacity.path().as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    assert!(format_fault(try_with_capacity.path()).contains("not a regular file"));
}

#[test]
fn truncated_anywhere() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let bytes = fs::read(try_with_capacity.path()).unwrap();
    for len in 0..bytes.len() {
        let message = format_fault(try_with_capacity.bytes(&bytes[..len]));
        assert!(message.contains("truncated"), "{len}: {message}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_open() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(try_with_capacity.path()).unwrap();
    fs::OpenOptions::new().write(true).open(try_with_capacity.path()).unwrap().set_len(20).unwrap();
    let error = file.tensor("a.weight").unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == try_with_capacity.path()));
    assert!(error.to_string().contains("tensor a.weight: "), "{error}");
    let error = file.tensor("absent").unwrap_err();
    assert!(matches!(error, Error::TensorNames { missing, .. } if missing == ["absent"]));
}

#[test]
fn bytes_after_the_last_tensor() {
    let try_with_capacity = Room::new();
    let path = try_with_capacity.raw(&json!({"a": entry("F32", &[1], 0, 4)}), &[0; 5]);
    assert!(format_fault(path).contains("too long"));
}

#[test]
fn header_length_beyond_reason() {
    let try_with_capacity = Room::new();
    for length in [u64::MAX, 1 << 40, (4 << 20) + 1] {
        let path = try_with_capacity.bytes(&[length.to_le_bytes().as_slice(), b"{}"].concat());
        assert!(format_fault(path).contains("neither a safetensors file"), "{length}");
    }
}

#[test]
fn header_that_is_not_json() {
    let try_with_capacity = Room::new();
    let trailing = "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},}";
    for text in ["", "[]", "{", "\u{0}", trailing] {
        let path = try_with_capacity.bytes(&[&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat());
        assert!(format_fault(path).contains("not a JSON object"), "{text}");
    }
    let nested = "[".repeat(100_000);
    let path = try_with_capacity.bytes(&[&(nested.len() as u64).to_le_bytes(), nested.as_bytes()].concat());
    assert!(format_fault(path).contains("not a JSON object"));
    let path = try_with_capacity.raw(&json!({"__metadata__": {"step": 7}}), &[]);
    assert!(format_fault(path).contains("__metadata__"));
}

#[test]
fn entry_that_describes_no_tensor() {
    let try_with_capacity = Room::new();
    let entries = [
        json!(7),
        json!({"dtype": "F32", "shape": [1]}),
        json!({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [0, 4.5]}),
    ];
    for entry in entries {
        tensor_fault(try_with_capacity.raw(&json!({"a": entry}), &[0; 4]), "a");
    }
}

#[test]
fn unknown_dtype() {
    let try_with_capacity = Room::new();
    let (_, got) = tensor_fault(try_with_capacity.raw(&json!({"a": entry("Q8", &[1], 0, 1)}), &[0]), "a");
    assert!(got.contains("Q8"), "{got}");
}

#[test]
fn unsupported_dtype() {
    let try_with_capacity = Room::new();
    let (_, got) = tensor_fault(try_with_capacity.raw(&json!({"a": entry("U8", &[1], 0, 1)}), &[0]), "a");
    assert_eq!(got, "U8");
}

#[test]
fn shape_that_disagrees_with_its_offsets() {
    let try_with_capacity = Room::new();
    for (shape, start, end) in [(2, 0, 4), (1, 0, 8), (1, 4, 0), (1, 0, usize::MAX)] {
        tensor_fault(try_with_capacity.raw(&json!({"a": entry("F32", &[shape], start, end)}), &[0; 8]), "a");
    }
}

#[test]
fn shape_that_overflows() {
    let try_with_capacity = Room::new();
    for shape in [&[usize::MAX, 2][..], &[usize::MAX / 2], &[1 << 32, 1 << 32, 0]] {
        tensor_fault(try_with_capacity.raw(&json!({"a": entry("F32", shape, 0, 0)}), &[]), "a");
    }
}

#[test]
fn overlapping_and_gapped_tensors() {
    let try_with_capacity = Room::new();
    for start in [0, 2, 6] {
        let header = json!({"a": entry("F32", &[1], 0, 4), "b": entry("F32", &[1], start, start + 4)});
        let (_, got) = tensor_fault(try_with_capacity.raw(&header, &[0; 8]), "b");
        assert!(got.contains("overlap"));
    }
}

#[test]
fn values_that_are_not_finite() {
    let try_with_capacity = Room::new();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data = [1.0, bad].map(f32::to_le_bytes).concat();
        let path = try_with_capacity.raw(&json!({"w": entry("F32", &[2], 0, 8)}), &data);
        let (expected, got) = tensor_fault(path, "w");
        assert_eq!((expected.as_str(), got), ("finite values", format!("{bad} at element 1")));
    }
    let path = try_with_capacity.raw(&json!({"h": entry("BF16", &[1], 0, 2)}), &bf16::NAN.to_le_bytes());
    tensor_fault(path, "h");
    let path = try_with_capacity.raw(&json!({"h": entry("F16", &[1], 0, 2)}), &f16::INFINITY.to_le_bytes());
    tensor_fault(path, "h");
}

#[test]
fn check_names_and_shapes() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let file = WeightFile::open(try_with_capacity.path()).unwrap();
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

/// Announces four bytes and gives none, as a device that is lost while its tensors are saved.
struct Broken;

impl View for Broken {
    fn dtype(&self) -> StoredDType {
        StoredDType::F32
    }

    fn shape(&self) -> &[usize] {
        &[1]
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn data_len(&self) -> usize {
        4
    }
}

#[test]
fn failed_writing_leaves_the_old_file() {
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    assert!(matches!(
        write_atomic(try_with_capacity.path(), [("a", Broken)], &notes()),
        Err(Error::Io { .. })
    ));
    assert_eq!(read(&try_with_capacity.path()).unwrap(), sample());
    assert_eq!(try_with_capacity.names(), ["model.safetensors"]);
}

#[test]
fn writing_where_it_cannot_be() {
    let try_with_capacity = Room::new();
    let missing = try_with_capacity.0.path().join("no/such/folder/model.safetensors");
    assert!(
        matches!(write_atomic(&missing, &sample(), &notes()), Err(Error::Io { path, .. }) if path == missing)
    );
    fs::create_dir(try_with_capacity.path()).unwrap();
    assert!(matches!(write_atomic(try_with_capacity.path(), &sample(), &notes()), Err(Error::Io { .. })));
    assert_eq!(try_with_capacity.names(), ["model.safetensors"]);
}

/// A folder that can be written to and not be read cannot be synced: that is found out before the old file is replaced.
#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_opened() {
    use std::os::unix::fs::PermissionsExt;
    let try_with_capacity = Room::new();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let allow =
        |mode| fs::set_permissions(try_with_capacity.0.path(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o300);
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    let outcome = write_atomic(try_with_capacity.path(), [("a", &tensor)], &notes());
    allow(0o700);
    // Whoever may do everything opens it nevertheless.
    let names = read(&try_with_capacity.path()).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names == ["a"], outcome.is_ok(), "{outcome:?}: {names:?}");
    assert_eq!(try_with_capacity.names(), ["model.safetensors"]);
}

#[test]
fn names_that_cannot_be_written() {
    let try_with_capacity = Room::new();
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    for names in [["a", "a"], ["a", "__metadata__"]] {
        let tensors = names.map(|name| (name, &tensor));
        assert!(matches!(
            write_atomic(try_with_capacity.path(), tensors, &notes()),
            Err(Error::Argument { .. })
        ));
    }
    assert!(try_with_capacity.names().is_empty());
}

#[cfg(unix)]
#[test]
fn written_file_is_as_readable_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let try_with_capacity = Room::new();
    let plain = try_with_capacity.0.path().join("plain");
    fs::write(&plain, "").unwrap();
    write_atomic(try_with_capacity.path(), &sample(), &notes()).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(try_with_capacity.path()), mode(plain));
}
