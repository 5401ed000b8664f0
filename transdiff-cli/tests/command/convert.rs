//! `transdiff convert`.

use std::collections::BTreeMap;
use std::fs;

use transdiff::checkpoint::{WeightFile, write_atomic};
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{DType, HostData, HostTensor};

use crate::files::{Folder, golden, model, mrar, one_step};
use crate::process::{fail, succeed};

#[test]
fn library_files_convert_to_identical_bytes() {
    let folder = Folder::new();
    let files = [
        folder.model("a.safetensors", &one_step()),
        folder.model("b.safetensors", &mrar()),
        folder.vae("v.safetensors"),
    ];
    for file in files {
        let out = folder.path("out.safetensors");
        let stdout = succeed(&["convert", &file, &out, "--force"]);
        assert!(stdout.starts_with(&out) && stdout.ends_with("iB\n"), "{stdout}");
        assert!(fs::read(&file).unwrap() == fs::read(&out).unwrap(), "{file}");
    }
}

#[test]
fn training_run_converts_to_ema_weights() {
    let folder = Folder::new();
    let (run, out) = (folder.path("run.safetensors"), folder.path("out.safetensors"));
    Trainer::new(model(&one_step()), TrainConfig::new(2, 3)).unwrap().save(&run).unwrap();
    assert!(succeed(&["convert", &run, &out]).contains("model (EMA weights)"));
    // Before the first training step, EMA and raw weights are equal.
    assert!(fs::read(&out).unwrap() == fs::read(folder.model("a.safetensors", &one_step())).unwrap());
    let (file, run) = (WeightFile::open(&out).unwrap(), WeightFile::open(&run).unwrap());
    for name in file.entries().keys() {
        assert_eq!(file.tensor(name).unwrap(), run.tensor(&format!("ema.{name}")).unwrap());
    }
}

#[test]
fn pytorch_checkpoint_keeps_values() {
    let path = golden("checkpoint-last.pth");
    let folder = Folder::new();
    let source = WeightFile::open(&path).unwrap();
    for (flags, prefix) in [(&[][..], "model_ema."), (&["--weights", "raw"], "model.")] {
        let (once, twice) = (folder.path("once.safetensors"), folder.path("twice.safetensors"));
        succeed(&[&["convert", &path, &once, "--heads", "4", "--force"], flags].concat());
        let converted = WeightFile::open(&once).unwrap();
        assert!(converted.metadata()[TransDiffConfig::METADATA_KEY].contains("\"heads\":4"));
        assert_eq!(converted.entries().len(), source.select(prefix).entries().count());
        for (name, _) in source.select(prefix).entries() {
            assert_eq!(converted.tensor(name).unwrap(), source.tensor(&format!("{prefix}{name}")).unwrap());
        }
        succeed(&["convert", &once, &twice, "--force"]);
        assert!(
            fs::read(&once).unwrap() == fs::read(&twice).unwrap(),
            "a second conversion needs no flags and changes nothing"
        );
    }
    let without = fail(&["convert", &path, &folder.path("new.safetensors")]);
    let wrong = fail(&["convert", &path, &folder.path("new.safetensors"), "--heads", "5"]);
    assert!(wrong.contains("--heads: expected a divisor of width 32, got 5"), "{wrong}");
    assert!(without.contains("checkpoint-last.pth") && without.contains("add --heads N"), "{without}");
}

#[test]
fn pytorch_vae_keeps_values() {
    let path = golden("vae.ckpt");
    let folder = Folder::new();
    let out = folder.path("vae.safetensors");
    assert!(succeed(&["convert", &path, &out]).contains("VAE, 162 tensors"));
    let (converted, source) = (WeightFile::open(&out).unwrap(), WeightFile::open(&path).unwrap());
    for name in converted.entries().keys() {
        assert_eq!(converted.tensor(name).unwrap(), source.tensor(&format!("model.{name}")).unwrap());
    }
    let heads = fail(&["convert", &path, &out, "--force", "--heads", "4"]);
    assert!(heads.contains("--heads: applies to models only"), "{heads}");
    let ema = fail(&["convert", &path, &out, "--force", "--weights", "ema"]);
    assert!(ema.contains("expected EMA weights, the file has raw weights"), "{ema}");
}

#[test]
fn key_chooses_one_of_several_sets() {
    let folder = Folder::new();
    let (path, out) = (folder.path("two.safetensors"), folder.path("out.safetensors"));
    let from = WeightFile::open(folder.model("a.safetensors", &one_step())).unwrap();
    let tensors: Vec<(String, HostTensor)> = ["first.", "second."]
        .iter()
        .flat_map(|set| from.entries().keys().map(move |name| (format!("{set}{name}"), name)))
        .map(|(full, name)| (full, from.tensor(name).unwrap()))
        .collect();
    write_atomic(&path, tensors.iter().map(|(name, tensor)| (name, tensor)), &BTreeMap::new()).unwrap();
    let error = fail(&["convert", &path, &out, "--heads", "2"]);
    assert!(error.contains("under first, second") && error.contains("--key KEY"), "{error}");
    assert!(fail(&["convert", &path, &out, "--key", "third"]).contains("first, second"));
    succeed(&["convert", &path, &out, "--heads", "2", "--key", "second"]);
    let converted = WeightFile::open(&out).unwrap();
    assert!(converted.entries().keys().eq(from.entries().keys()));
    let text = succeed(&["inspect", &path, "--heads", "2", "--key", "first"]);
    assert!(text.contains("single set"), "{text}");
}

#[test]
fn dtype_conversion_rounds() {
    let folder = Folder::new();
    let path = folder.model("model.safetensors", &one_step());
    let (small, wide) = (folder.path("small.safetensors"), folder.path("wide.safetensors"));
    succeed(&["convert", &path, &small, "--dtype", "bf16"]);
    succeed(&["convert", &small, &wide, "--dtype", "f32"]);
    let [from, small, wide] = [path, small, wide].map(|path| WeightFile::open(path).unwrap());
    for name in from.entries().keys() {
        let rounded = from.tensor(name).unwrap().cast(DType::BF16).unwrap();
        assert_eq!(small.tensor(name).unwrap(), rounded);
        assert_eq!(wide.tensor(name).unwrap(), rounded.cast(DType::F32).unwrap());
    }
    assert_eq!(small.metadata(), from.metadata());
}

/// Writes the tiny model with the first value of one tensor replaced.
fn corrupted(folder: &Folder, value: f32) -> String {
    let from = WeightFile::open(folder.model("good.safetensors", &one_step())).unwrap();
    let mut tensors: BTreeMap<&String, HostTensor> =
        from.entries().keys().map(|name| (name, from.tensor(name).unwrap())).collect();
    let tensor = tensors.get_mut(&"z_proj_ln.weight".to_owned()).unwrap();
    let mut values = tensor.to_f32();
    values[0] = value;
    *tensor = HostTensor::new(&[values.len()], HostData::F32(values)).unwrap();
    let path = folder.path("corrupted.safetensors");
    write_atomic(&path, tensors.iter(), from.metadata()).unwrap();
    path
}

#[test]
fn failed_conversion_keeps_the_existing_file() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    fs::write(&out, "existing").unwrap();
    let good = folder.model("good.safetensors", &one_step());
    assert!(fail(&["convert", &good, &out]).contains("out.safetensors: already exists; add --force"));
    let nan = fail(&["convert", &corrupted(&folder, f32::NAN), &out, "--force"]);
    assert!(nan.contains("corrupted.safetensors: tensor z_proj_ln.weight") && nan.contains("NaN"), "{nan}");
    let large = fail(&["convert", &corrupted(&folder, f32::MAX), &out, "--force", "--dtype", "bf16"]);
    assert!(large.contains("z_proj_ln.weight: expected values within the range of bf16"), "{large}");
    assert_eq!(fs::read(&out).unwrap(), b"existing");
    assert_eq!(folder.names(""), ["corrupted.safetensors", "good.safetensors", "out.safetensors"]);
    assert!(fail(&["convert", &good, &folder.path("no/out.safetensors")]).contains("no/out.safetensors"));
}

#[test]
fn files_without_a_model_are_rejected() {
    let folder = Folder::new();
    let (path, out) = (folder.path("other.safetensors"), folder.path("out.safetensors"));
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    write_atomic(&path, [("diffdecoder.net.input_proj.weight", &tensor)], &BTreeMap::new()).unwrap();
    assert!(fail(&["convert", &path, &out]).contains("class_emb.weight"), "the missing tensor is named");
    write_atomic(&path, [("x", &tensor)], &BTreeMap::new()).unwrap();
    assert!(
        fail(&["convert", &path, &out]).contains("other.safetensors: expected a TransDiff model or a KL-VAE")
    );
    assert!(fail(&["convert", &path, &out]).ends_with("the file has x"));
    let good = folder.model("good.safetensors", &one_step());
    assert!(fail(&["convert", &good, &out, "--heads", "4"]).contains("heads"));
    assert!(fail(&["convert", &good, &out, "--weights", "ema"]).contains("good.safetensors"));
}
