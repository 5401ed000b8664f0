//! Output file of `transdiff convert`: the types of its tensors, the path that it replaces, and what is left of it after
//! an interruption or without memory.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use transdiff::checkpoint::{FORMAT_KEY, FORMAT_VERSION, StoredDType, WeightFile};
use transdiff::models::transdiff::TransDiffConfig;

use crate::archive;
use crate::files::{Folder, one_step};
use crate::pickle;
use crate::process::{fail, interruptible, run_limited, succeed};

/// The message of a failed write without memory.
const OUT_OF_MEMORY: &str = "out of memory";

/// Writes the tensors of `from` with the element type `dtype`, whose elements have `size` bytes: the values are not those
/// of a model, but distinct.
fn retyped(folder: &Folder, from: &str, dtype: &str, size: usize) -> String {
    let file = WeightFile::open(from).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let mut metadata = file.metadata().clone();
    metadata.insert(FORMAT_KEY.to_owned(), FORMAT_VERSION.to_string());
    header.insert("__metadata__".to_owned(), json!(metadata));
    for (name, entry) in file.entries() {
        let start = end;
        end += size * entry.shape().iter().product::<usize>();
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": entry.shape(), "data_offsets": [start, end]}),
        );
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    // Every second byte is below 0x40, so that no exponent is the largest.
    let data: Vec<u8> =
        (0..end).map(|i| if i % 2 == 1 { (i / 2 % 0x40) as u8 } else { (i / 2) as u8 }).collect();
    let path = folder.path("retyped.safetensors");
    fs::write(&path, [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat()).unwrap();
    path
}

#[test]
fn element_types_are_kept() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    for (dtype, size) in [("F16", 2), ("BF16", 2), ("F32", 4), ("F64", 8)] {
        let (from, out) = (retyped(&folder, &model, dtype, size), folder.path("out.safetensors"));
        succeed(&["convert", &from, &out, "--force"]);
        assert!(fs::read(&from).unwrap() == fs::read(&out).unwrap(), "{dtype}");
    }
}

/// Number of classes of models with one large tensor, `class_emb.weight` [CLASSES, WIDTH], of 134 MB in f32.
const CLASSES: usize = 1 << 20;
const WIDTH: usize = 32;

/// The small model on which the large ones are based.
fn small(folder: &Folder) -> WeightFile {
    let config = TransDiffConfig { width: WIDTH, ..one_step() };
    WeightFile::open(folder.model("small.safetensors", &config)).unwrap()
}

/// A sparse safetensors model of zeros.
fn large_model(folder: &Folder) -> String {
    let small = small(folder);
    let config = TransDiffConfig { width: WIDTH, classes: CLASSES, ..one_step() };
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    header
        .insert("__metadata__".to_owned(), json!({TransDiffConfig::METADATA_KEY: json!(config).to_string()}));
    for (name, entry) in small.entries() {
        let mut shape = entry.shape().to_vec();
        if name == "class_emb.weight" {
            shape[0] = CLASSES;
        }
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let text = Value::Object(header).to_string();
    let path = folder.path("large.safetensors");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&[&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()).unwrap();
    file.set_len((8 + text.len() + end) as u64).unwrap();
    path
}

/// A PyTorch checkpoint whose tensor `class_emb.weight` is stored column by column, as a sparse file.
fn large_transposed_checkpoint(folder: &Folder) -> String {
    let small = small(folder);
    let (mut tensors, mut storages) = (Vec::new(), Vec::new());
    for (name, entry) in small.entries().iter().filter(|(name, _)| *name != "class_emb.weight") {
        let shape: Vec<i64> = entry.shape().iter().map(|&n| n as i64).collect();
        tensors.push((name.as_str(), pickle::tensor(&storages.len().to_string(), &shape)));
        storages.push(vec![0; 4 * entry.shape().iter().product::<usize>()]);
    }
    let (rows, columns, key) = (CLASSES as i64, WIDTH as i64, storages.len().to_string());
    let storage = pickle::storage("FloatStorage", &key, rows * columns);
    tensors.push(("class_emb.weight", pickle::view(storage, 0, &[rows, columns], &[1, rows])));
    storages.push(vec![0; 4 * CLASSES * WIDTH]);
    let body = pickle::dict(&[("model", pickle::dict(&tensors))]);
    let storages: Vec<&[u8]> = storages.iter().map(Vec::as_slice).collect();
    let path = folder.path("large.pth");
    let bytes = archive::zip(&archive::checkpoint(&pickle::pickle(&body), &storages));
    let mut file = fs::File::create(&path).unwrap();
    // Pages of zeros are left out.
    for page in bytes.chunks(4096) {
        match page.iter().all(|&byte| byte == 0) {
            true => drop(file.seek(SeekFrom::Current(page.len() as i64)).unwrap()),
            false => file.write_all(page).unwrap(),
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
    path
}

/// Memory that a conversion takes does not depend on the size of a tensor.
#[test]
fn large_tensors_are_converted_in_little_memory() {
    let folder = Folder::new();
    let (path, out) = (large_model(&folder), folder.path("out.safetensors"));
    for dtype in [None, Some("bf16")] {
        let flags = dtype.map(|dtype| ["--dtype", dtype]);
        let args = [&["convert", &path, &out, "--force"][..], flags.as_ref().map_or(&[], |f| f)].concat();
        let done = run_limited("-v 100000", &args);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
        let file = WeightFile::open(&out).unwrap();
        let entry = &file.entries()["class_emb.weight"];
        let expected = if dtype.is_some() { StoredDType::BF16 } else { StoredDType::F32 };
        assert_eq!((entry.dtype(), entry.shape()), (expected, [CLASSES, WIDTH].as_slice()));
    }
}

/// A view whose elements are not in order is read as a whole. If it does not fit, that is an error and no abort, whatever
/// the limit.
#[test]
fn conversion_without_memory_fails_without_a_file() {
    let folder = Folder::new();
    let path = large_transposed_checkpoint(&folder);
    let out = folder.path("out.safetensors");
    fs::write(&out, "existing").unwrap();
    let mut failed = 0;
    for limit in (60_000..=180_000).step_by(12_000) {
        let args = ["convert", &path, &out, "--force", "--heads", "2"];
        let done = run_limited(&format!("-v {limit}"), &args);
        match done.code {
            Some(0) => fs::write(&out, "existing").unwrap(),
            code => {
                assert_eq!(code, Some(1), "{limit}: {}", done.stderr);
                assert!(done.stderr.contains(OUT_OF_MEMORY), "{limit}: {}", done.stderr);
                assert_eq!(fs::read(&out).unwrap(), b"existing");
                failed += 1;
            }
        }
        assert!(folder.names("").iter().all(|name| !name.starts_with(".writing")), "{limit}");
    }
    assert!(failed >= 3, "{failed} conversions had too little memory");
}

#[test]
fn file_size_limit_leaves_no_temporary_file() {
    let folder = Folder::new();
    let (path, out) = (folder.model("model.safetensors", &one_step()), folder.path("out.safetensors"));
    let done = run_limited("-f 8", &["convert", &path, &out]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("out.safetensors: File too large"), "{}", done.stderr);
    assert_eq!(folder.names(""), ["model.safetensors"]);
}

#[test]
fn interrupted_conversion_leaves_no_temporary_file() {
    let folder = Folder::new();
    let (path, out) = (large_model(&folder), folder.path("out.safetensors"));
    fs::remove_file(folder.path("small.safetensors")).unwrap();
    for signal in ["INT", "TERM", "HUP"] {
        let mut convert = interruptible();
        convert.args(["convert", &path, &out]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = convert.spawn().unwrap();
        while !folder.names("").iter().any(|name| name.starts_with(".writing")) {
            assert!(child.try_wait().unwrap().is_none(), "the command ended before it was interrupted");
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.signal(), output.status.code()), (None, Some(130)), "{signal}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, format!("interrupted: {out} was not written\n"));
        assert_eq!(folder.names(""), ["large.safetensors"], "{signal}");
    }
}

#[test]
fn replaced_file_keeps_links_and_mode() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    fs::create_dir(folder.path("store")).unwrap();
    let (real, link) = (folder.path("store/real.safetensors"), folder.path("link"));
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("store/real.safetensors", &link).unwrap();
    assert!(fail(&["convert", &model, &link]).contains("already exists; add --force"));
    succeed(&["convert", &model, &link, "--force"]);
    assert!(Path::new(&link).is_symlink());
    assert_eq!(fs::read(&real).unwrap(), fs::read(&model).unwrap());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn missing_target_of_a_link_is_written_only_with_force() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let (target, link) = (folder.path("nowhere"), folder.path("link"));
    symlink("nowhere", &link).unwrap();
    let error = fail(&["convert", &model, &link]);
    assert!(error.contains("nowhere, which does not exist; add --force to create it"), "{error}");
    assert!(Path::new(&link).is_symlink() && !Path::new(&target).exists());
    succeed(&["convert", &model, &link, "--force"]);
    assert!(Path::new(&link).is_symlink());
    assert_eq!(fs::read(&target).unwrap(), fs::read(&model).unwrap());
}

#[test]
fn special_files_are_not_replaced() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let (pipe, directory) = (folder.path("pipe"), folder.path("directory"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(&directory).unwrap();
    // The input does not have to be read to see that the output cannot be written.
    for input in [&model, &folder.path("missing")] {
        for flags in [&[][..], &["--force"]] {
            let convert = |out: &str| fail(&[&["convert", input, out], flags].concat());
            assert!(convert(&pipe).contains("pipe: a named pipe, not a regular file"));
            assert!(convert(&directory).contains("directory: a directory, not a regular file"));
        }
    }
    let args = ["sample", "--model", &model, "--class", "3", "--steps", "1", "--latents", &pipe, "--force"];
    let error = fail(&[&args[..], &["--out", &folder.path("images")]].concat());
    assert!(error.contains("pipe: expected a regular file"), "{error}");
    assert_eq!(folder.names(""), ["directory", "model.safetensors", "pipe"]);
}
