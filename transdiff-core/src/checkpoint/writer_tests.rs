//! Writing: what happens to the file that is replaced, and to the temporary one.

use std::fs;
use std::path::PathBuf;

use half::f16;
use serde_json::json;

use super::tests::{Folder, entry, notes, read, sample};
use super::*;
use crate::{CancellationToken, DType, Error, HostData, HostTensor, Precision, Result};

/// A tensor that promises four bytes and yields none.
struct Broken;

impl WriteTensor for Broken {
    fn dtype(&self) -> StoredDType {
        StoredDType::F32
    }

    fn shape(&self) -> &[usize] {
        &[1]
    }

    fn write(&self, _: &mut Put<'_>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn failed_write_leaves_the_old_file() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    assert!(matches!(write_atomic(folder.model_path(), [("a", Broken)], &notes()), Err(Error::Io { .. })));
    assert_eq!(read(&folder.model_path()).unwrap(), sample());
    assert_eq!(folder.names(), ["model.safetensors"]);
}

#[test]
fn write_to_unwritable_path_fails() {
    let folder = Folder::new();
    let missing = folder.0.path().join("no/such/folder/model.safetensors");
    assert!(
        matches!(write_atomic(&missing, &sample(), &notes()), Err(Error::Io { path, .. }) if path == missing)
    );
    fs::create_dir(folder.model_path()).unwrap();
    assert!(matches!(write_atomic(folder.model_path(), &sample(), &notes()), Err(Error::Io { .. })));
    assert_eq!(folder.names(), ["model.safetensors"]);
}

/// A folder that is writable but not readable cannot be synced, which must be noticed before the old file is replaced.
#[cfg(unix)]
#[test]
fn unreadable_folder_fails_before_the_file_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let allow = |mode| fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o300);
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    let outcome = write_atomic(folder.model_path(), [("a", &tensor)], &notes());
    allow(0o700);
    // A privileged user can open it nevertheless.
    let names = read(&folder.model_path()).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names == ["a"], outcome.is_ok(), "{outcome:?}: {names:?}");
    assert_eq!(folder.names(), ["model.safetensors"]);
}

#[test]
fn duplicate_and_reserved_names_are_not_written() {
    let folder = Folder::new();
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    for names in [["a", "a"], ["a", "__metadata__"]] {
        let tensors = names.map(|name| (name, &tensor));
        assert!(matches!(write_atomic(folder.model_path(), tensors, &notes()), Err(Error::Argument { .. })));
    }
    assert!(folder.names().is_empty());
}

#[cfg(unix)]
#[test]
fn written_file_has_default_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let plain = folder.0.path().join("plain");
    fs::write(&plain, "").unwrap();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(folder.model_path()), mode(plain));
}

#[cfg(unix)]
#[test]
fn replaced_file_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let mode = || fs::metadata(folder.model_path()).unwrap().permissions().mode() & 0o7777;
    for kept in [0o600, 0o666, 0o444] {
        fs::write(folder.model_path(), "").unwrap();
        fs::set_permissions(folder.model_path(), fs::Permissions::from_mode(kept)).unwrap();
        write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
        assert_eq!(mode(), kept);
        fs::remove_file(folder.model_path()).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_followed() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    let path = |name: &str| folder.0.path().join(name);
    fs::create_dir(path("store")).unwrap();
    symlink("store/link", path("first")).unwrap();
    symlink("model.safetensors", path("store/link")).unwrap();
    // The last link leads to a missing file, and then to an existing one.
    for exists in [false, true] {
        let destination = Destination::of(path("first")).unwrap();
        assert_eq!((destination.exists(), destination.path()), (exists, &*path("store/model.safetensors")));
        write_atomic(path("first"), &sample(), &notes()).unwrap();
        assert!(path("first").is_symlink() && path("store/link").is_symlink());
        assert_eq!(read(&path("store/model.safetensors")).unwrap(), sample());
    }
    assert_eq!(fs::read_dir(path("store")).unwrap().count(), 2, "no temporary file is left");
    symlink("loop", path("loop")).unwrap();
    assert!(matches!(write_atomic(path("loop"), &sample(), &notes()), Err(Error::Io { .. })));
}

#[cfg(unix)]
#[test]
fn special_files_are_not_replaced() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = Folder::new();
    let path = |name: &str| folder.0.path().join(name);
    let make = |name: &str, mode: libc::mode_t, device: libc::dev_t| {
        let path = std::ffi::CString::new(path(name).as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with a zero byte.
        unsafe { libc::mknod(path.as_ptr(), mode | 0o600, device) == 0 }
    };
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    assert!(make("pipe", libc::S_IFIFO, 0));
    fs::create_dir(path("folder")).unwrap();
    symlink("pipe", path("link")).unwrap();
    let mut cases = vec![("socket", "a socket"), ("pipe", "a named pipe"), ("folder", "a directory")];
    cases.push(("link", "a named pipe"));
    // Only a privileged user may create a device.
    if make("null", libc::S_IFCHR, libc::makedev(1, 3)) {
        cases.push(("null", "a device"));
    }
    for (name, kind) in cases {
        let error = write_atomic(path(name), &sample(), &notes()).unwrap_err();
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path(name)), "{error}");
        assert!(error.to_string().contains(&format!("{kind}, not a regular file")), "{error}");
        let kept = fs::metadata(path(name)).unwrap().file_type();
        assert!(!kept.is_file() && (name != "null" || kept.is_char_device()));
    }
    assert!(folder.names().iter().all(|name| !name.starts_with(".writing")));
}

/// A tensor of two pieces; the token is cancelled between them, or after the last.
struct Cancelling<'a>(&'a CancellationToken, usize);

impl WriteTensor for Cancelling<'_> {
    fn dtype(&self) -> StoredDType {
        StoredDType::F32
    }

    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        for piece in 0..2 {
            put(&[0; 4])?;
            if piece == self.1 {
                self.0.cancel();
            }
        }
        Ok(())
    }
}

#[test]
fn cancelled_write_leaves_the_old_file() {
    let folder = Folder::new();
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    for piece in [0, 1] {
        let token = CancellationToken::new();
        let tensors = [("a", Cancelling(&token, piece))];
        let outcome = write_atomic_cancellable(folder.model_path(), tensors, &notes(), &token);
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert_eq!(read(&folder.model_path()).unwrap(), sample());
        assert_eq!(folder.names(), ["model.safetensors"]);
    }
}

/// Writes the tensors of the file `from` to another one, in the type `dtype` or their own.
fn copy(from: &WeightFile, to: &PathBuf, dtype: Option<DType>) -> Result<WeightFile> {
    write_atomic(to, from.select("").stored(dtype.map(Precision::from), |_| false)?, from.metadata())?;
    WeightFile::open(to)
}

#[test]
fn stored_tensors_are_copied_with_their_types() {
    let folder = Folder::new();
    let halves: Vec<u8> = (0..100_000u32).flat_map(|i| ((i % 0x7c00) as u16).to_le_bytes()).collect();
    let longs = [-3i64, 1000].map(i64::to_le_bytes).concat();
    let header = json!({"l": entry("I64", &[2], 0, 16), "h": entry("F16", &[2, 50_000], 16, 200_016)});
    let from = WeightFile::open(folder.raw(&header, &[longs, halves].concat())).unwrap();
    let to = folder.0.path().join("to");
    let copied = copy(&from, &to, None).unwrap();
    for (name, entry) in from.entries() {
        assert_eq!(
            (copied.entries()[name].dtype(), copied.entries()[name].shape()),
            (entry.dtype(), entry.shape())
        );
        assert_eq!(copied.tensor(name).unwrap(), from.tensor(name).unwrap());
    }
    let data = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes[bytes.len() - 200_016..].to_vec()
    };
    assert!(data(&to) == data(&folder.model_path()), "the bytes are copied");
    // The library's own files are reproduced, header included.
    write_atomic(folder.model_path(), &sample(), &notes()).unwrap();
    copy(&WeightFile::open(folder.model_path()).unwrap(), &to, None).unwrap();
    assert_eq!(fs::read(&to).unwrap(), fs::read(folder.model_path()).unwrap());
}

#[test]
fn stored_tensors_are_converted_like_host_tensors() {
    let folder = Folder::new();
    let values: Vec<f64> = (0..70_000).map(|i| (f64::from(i) - 35_000.0) / 777.7).collect();
    let tensors = [DType::F64, DType::F32, DType::BF16]
        .map(|dtype| HostTensor::new(&[7, 10_000], HostData::from_f64(values.clone(), dtype)).unwrap());
    let named = tensors.iter().map(|tensor| (tensor.dtype().to_string(), tensor));
    write_atomic(folder.model_path(), named, &notes()).unwrap();
    let from = WeightFile::open(folder.model_path()).unwrap();
    for dtype in [DType::F64, DType::F32, DType::BF16] {
        let copied = copy(&from, &folder.0.path().join("to"), Some(dtype)).unwrap();
        for tensor in &tensors {
            let name = tensor.dtype().to_string();
            let expected = tensor.clone().cast(dtype).unwrap();
            assert_eq!(copied.tensor(&name).unwrap(), expected);
            assert_eq!(from.select("").tensor_as(&name, dtype).unwrap(), expected);
        }
    }
    assert!(matches!(from.select("").stored(Some(DType::I32.into()), |_| false), Err(Error::DType { .. })));
}

/// Errors count elements from the start of the tensor, also in later pieces.
#[test]
fn values_beyond_the_range_of_a_type_are_named() {
    let folder = Folder::new();
    let mut values = vec![0.0; 200_000];
    values[150_001] = -1e300;
    let tensor = HostTensor::new(&[2, 100_000], HostData::F64(values)).unwrap();
    write_atomic(folder.model_path(), [("a.w", &tensor)], &notes()).unwrap();
    let file = WeightFile::open(folder.model_path()).unwrap();
    let to = folder.0.path().join("to");
    for dtype in [DType::F32, DType::BF16] {
        let errors = [
            file.select("a.").tensor_as("w", dtype).unwrap_err(),
            copy(&file, &to, Some(dtype)).unwrap_err(),
        ];
        for error in errors {
            let expected = format!(
                "tensor a.w: expected values within the range of {dtype}, got -1e300 at element 150001"
            );
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
    }
    let data: Vec<u8> = (0..100_000)
        .flat_map(|i| f16::from_f32(if i == 99_999 { f32::NAN } else { 1.0 }).to_le_bytes())
        .collect();
    let path = folder.raw(&json!({"h": entry("F16", &[100_000], 0, 200_000)}), &data);
    let error = copy(&WeightFile::open(path).unwrap(), &to, None).unwrap_err();
    assert!(
        error.to_string().ends_with("tensor h: expected finite values, got NaN at element 99999"),
        "{error}"
    );
    assert!(!to.exists());
}
