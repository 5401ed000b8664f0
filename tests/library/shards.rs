//! Models in several safetensors files with an index.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::common::golden::Golden;
use serde_json::{Value, json};
use tempfile::TempDir;
use transdiff_core::checkpoint::{Format, WeightFile, write_atomic};
use transdiff_core::models::transdiff::TransDiffConfig;
use transdiff_core::models::{FileKind, LoadHints, StoredModel};
use transdiff_core::reference::Reference;
use transdiff_core::{DType, Error, HostTensor, Result};

const INDEX: &str = "model.safetensors.index.json";

/// A folder with the golden model in shards.
struct Sharded {
    folder: TempDir,
    golden: Golden,
    weight_map: BTreeMap<String, String>,
}

impl Sharded {
    fn new(shards: usize) -> Self {
        let (folder, golden) = (tempfile::tempdir().unwrap(), Golden::load("onestep_256"));
        let name_of = |i: usize| format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
        let mut weight_map = BTreeMap::new();
        for shard in 0..shards {
            let tensors = golden.under("param.").enumerate().filter(|(i, _)| i % shards == shard);
            let tensors: Vec<_> = tensors.map(|(_, tensor)| tensor).collect();
            weight_map.extend(tensors.iter().map(|(name, _)| ((*name).to_owned(), name_of(shard))));
            let metadata = [("format".to_owned(), "pt".to_owned())].into();
            write_atomic(folder.path().join(name_of(shard)), tensors, &metadata).unwrap();
        }
        let out = Self { folder, golden, weight_map };
        out.write_index(&json!({"metadata": {"total_size": 1}, "weight_map": out.weight_map}));
        out
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_index(&self, index: &Value) {
        fs::write(self.path(INDEX), index.to_string()).unwrap();
    }

    /// Writes an index with another map, and returns the error of opening it.
    fn error_with(&self, weight_map: &Value) -> Error {
        self.write_index(&json!({"weight_map": weight_map}));
        open(&self.path(INDEX)).unwrap_err()
    }

    fn hints(&self) -> LoadHints {
        LoadHints { heads: Some(self.golden.value("heads")), ..LoadHints::default() }
    }
}

/// Opens a file with and without a memory map, which must not make a difference.
fn open(path: &std::path::Path) -> Result<WeightFile> {
    let file = WeightFile::open(path);
    // SAFETY: no other process knows the temporary folder.
    match (&file, unsafe { WeightFile::open_mapped(path) }) {
        (Ok(a), Ok(b)) => {
            assert_eq!(a.entries(), b.entries());
            assert!(a.entries().keys().all(|name| a.tensor(name).unwrap() == b.tensor(name).unwrap()));
        }
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        other => panic!("{other:?}"),
    }
    file
}

#[test]
fn shards_are_read_as_one_model() {
    for shards in [1, 2, 5] {
        let sharded = Sharded::new(shards);
        let file = open(&sharded.path(INDEX)).unwrap();
        assert_eq!((file.format(), FileKind::of(&file)), (Format::Safetensors, FileKind::Model));
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.entries().len(), sharded.weight_map.len());
        for (name, tensor) in sharded.golden.under("param.") {
            assert_eq!(&file.tensor(name).unwrap(), tensor, "{name}");
        }
        let model = StoredModel::find(&file, &sharded.hints()).unwrap();
        model.check().unwrap();
        model.load(&Reference, DType::F32).unwrap();
        // Written to one file, the tensors are the same.
        let whole = sharded.path("whole.safetensors");
        let metadata = [(TransDiffConfig::METADATA_KEY.to_owned(), model.config().json)].into();
        write_atomic(&whole, model.tensors().stored(None, |_| false).unwrap(), &metadata).unwrap();
        let whole = open(&whole).unwrap();
        assert!(sharded.golden.under("param.").all(|(name, tensor)| &whole.tensor(name).unwrap() == tensor));
    }
}

#[test]
fn missing_shard_is_named() {
    let sharded = Sharded::new(3);
    fs::remove_file(sharded.path("model-00002-of-00003.safetensors")).unwrap();
    let text = open(&sharded.path(INDEX)).unwrap_err().to_string();
    assert!(text.contains(INDEX) && text.contains("model-00002-of-00003.safetensors is missing"), "{text}");
    assert!(text.contains("all 3 shards"), "{text}");
}

#[test]
fn invalid_shards_are_named() {
    let sharded = Sharded::new(2);
    let second = sharded.path("model-00002-of-00002.safetensors");
    let bytes = fs::read(&second).unwrap();
    for (contents, part) in [
        (&bytes[..bytes.len() - 1], "truncated"),
        (b"{\"weight_map\": {}}", "expected a shard in the format safetensors"),
        (b"PK\x03\x04", "expected a shard in the format safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ] {
        fs::write(&second, contents).unwrap();
        let text = open(&sharded.path(INDEX)).unwrap_err().to_string();
        assert!(text.contains("model-00002-of-00002.safetensors") && text.contains(part), "{text}");
    }
    fs::write(&second, fs::read(sharded.path("model-00001-of-00002.safetensors")).unwrap()).unwrap();
    let error = open(&sharded.path(INDEX)).unwrap_err();
    let part = "the shard model-00002-of-00002.safetensors lacks ";
    assert!(matches!(&error, Error::Format { message, .. } if message.starts_with(part)), "{error}");
}

#[test]
fn index_and_shards_have_to_agree() {
    let sharded = Sharded::new(2);
    let map = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut map = sharded.weight_map.clone();
        change(&mut map);
        json!(map)
    };
    let moved = map(&|map| {
        let shard = map.get_mut("class_emb.weight").unwrap();
        *shard = if shard.contains("00001") {
            shard.replace("00001", "00002")
        } else {
            shard.replace("00002", "00001")
        };
    });
    let error = sharded.error_with(&moved);
    assert!(
        error
            .to_string()
            .contains(" lacks 1 tensors that the index lists for it, class_emb.weight among them"),
        "{error}"
    );
    let absent = map(&|map| drop(map.insert("more".into(), "model-00001-of-00002.safetensors".into())));
    assert!(sharded.error_with(&absent).to_string().contains("more among them"));

    let extra = HostTensor::f32(&[1], vec![0.0]).unwrap();
    write_atomic(
        sharded.path("b.safetensors"),
        [("class_emb.weight", &extra), ("b", &extra)],
        &BTreeMap::new(),
    )
    .unwrap();
    let twice = map(&|map| drop(map.insert("b".into(), "b.safetensors".into())));
    let error = sharded.error_with(&twice);
    assert!(error.to_string().contains("tensor class_emb.weight: expected it in one shard"), "{error}");
}

/// An index is untrusted: it must not lead to files outside of its folder.
#[test]
fn shards_outside_of_the_folder_are_rejected() {
    let sharded = Sharded::new(1);
    let outside = sharded.path("model-00001-of-00001.safetensors");
    fs::create_dir(sharded.path("sub")).unwrap();
    for name in [
        "../a.safetensors",
        outside.to_str().unwrap(),
        "sub/a.safetensors",
        "..",
        ".",
        "",
        "sub/../a",
        "a\\b",
    ] {
        let error = sharded.error_with(&json!({"class_emb.weight": name}));
        assert!(
            error.to_string().contains("weight_map: expected names of files in the folder"),
            "{name}: {error}"
        );
    }
    let error = sharded.error_with(&json!({"class_emb.weight": "sub"}));
    assert!(error.to_string().contains("sub: a directory, not a regular file"), "{error}");
}

#[test]
fn json_without_a_valid_index_is_named() {
    let sharded = Sharded::new(1);
    for (text, part) in [
        (r#"{"hidden_size": 8}"#, "a JSON file, but no index of shards"),
        (r#"{"weight_map": "#, "a JSON file, but no index of shards"),
        (r#" {"weight_map": {"a": 1}}"#, "weight_map: a: expected a string, got 1"),
        (r#"{"weight_map": {}}"#, "expected at least one tensor"),
        (r#"{"weight_map": [1]}"#, "weight_map: "),
        (&format!(r#"{{"a": {}"#, "[".repeat(100_000)), "nested deeper"),
        (&format!("{{{}", " ".repeat(5 << 20)), "an index of shards, which has at most"),
    ] {
        fs::write(sharded.path(INDEX), text).unwrap();
        let message = open(&sharded.path(INDEX)).unwrap_err().to_string();
        assert!(message.contains(INDEX) && message.contains(part), "{message}");
    }
    let error = WeightFile::from_bytes("memory", b"{\"weight_map\": {}}".to_vec()).unwrap_err();
    assert!(error.to_string().contains("has to be opened by its path"), "{error}");
}

#[test]
fn one_shard_of_several_leads_to_the_index() {
    let sharded = Sharded::new(2);
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let file = open(&sharded.path(shard)).unwrap();
        let found = StoredModel::find(&file, &sharded.hints());
        let text = found.and_then(|model| model.check()).unwrap_err().to_string();
        assert!(text.contains(" of 2: open the index of all shards, model.safetensors.index.json"), "{text}");
        assert!(text.contains(shard), "{text}");
    }
    // The only shard is the whole model.
    let single = Sharded::new(1);
    let file = open(&single.path("model-00001-of-00001.safetensors")).unwrap();
    StoredModel::find(&file, &single.hints()).unwrap().check().unwrap();
}
