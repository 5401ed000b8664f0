//! `transdiff convert`.

use std::collections::BTreeMap;
use std::fs;

use transdiff::checkpoint::{WeightFile, write_atomic};
use transdiff::models::transdiff::CONFIG_KEY;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{DType, HostData, HostTensor};

use crate::files::{Folder, golden, model, mrar, one_step};
use crate::process::{fail, succeed};

#[test]
fn what_the_library_wrote_comes_out_byte_for_byte() {
    let folder = Folder::new();
    let files = [
        folder.model("a.safetensors", &one_step()),
        folder.model("b.safetensors", &mrar()),
        folder.vae("v.safetensors"),
    ];
    for file in files {
        let out = folder.path("out.safetensors");
        let said = succeed(&["convert", &file, &out, "--force"]);
        assert!(said.starts_with(&out) && said.ends_with("iB\n"), "{said}");
        assert!(fs::read(&file).unwrap() == fs::read(&out).unwrap(), "{file}");
    }
}

#[test]
fn of_a_training_run_the_average_is_taken() {
    let folder = Folder::new();
    let (run, out) = (folder.path("run.safetensors"), folder.path("out.safetensors"));
    Trainer::new(model(&one_step()), TrainConfig::new(2, 3)).unwrap().save(&run).unwrap();
    assert!(succeed(&["convert", &run, &out]).contains("model (EMA weights)"));
    // Before the first step, the average is the model.
    assert!(fs::read(&out).unwrap() == fs::read(folder.model("a.safetensors", &one_step())).unwrap());
    let (file, run) = (WeightFile::open(&out).unwrap(), WeightFile::open(&run).unwrap());
    for name in file.entries().keys() {
        assert_eq!(file.tensor(name).unwrap(), run.tensor(&format!("ema.{name}")).unwrap());
    }
}

#[test]
fn a_checkpoint_of_pytorch_keeps_its_values() {
    let path = golden("checkpoint-last.pth");
    let folder = Folder::new();
    let source = WeightFile::open(&path).unwrap();
    for (flags, prefix) in [(&[][..], "model_ema."), (&["--weights", "raw"], "model.")] {
        let (once, twice) = (folder.path("once.safetensors"), folder.path("twice.safetensors"));
        succeed(&[&["convert", &path, &once, "--heads", "4", "--force"], flags].concat());
        let made = WeightFile::open(&once).unwrap();
        assert!(made.metadata()[CONFIG_KEY].contains("\"heads\":4"));
        assert_eq!(made.entries().len(), source.select(prefix).entries().count());
        for (name, _) in source.select(prefix).entries() {
            assert_eq!(made.tensor(name).unwrap(), source.tensor(&format!("{prefix}{name}")).unwrap());
        }
        succeed(&["convert", &once, &twice, "--force"]);
        assert!(fs::read(&once).unwrap() == fs::read(&twice).unwrap(), "needs no flag, and changes nothing");
    }
    let without = fail(&["convert", &path, &folder.path("new.safetensors")]);
    let wrong = fail(&["convert", &path, &folder.path("new.safetensors"), "--heads", "5"]);
    assert!(wrong.contains("--heads: expected a divisor of width 32, got 5"), "{wrong}");
    assert!(without.contains("checkpoint-last.pth") && without.contains("add --heads N"), "{without}");
}

#[test]
fn an_autoencoder_of_pytorch_keeps_its_values() {
    let path = golden("vae.ckpt");
    let folder = Folder::new();
    let out = folder.path("vae.safetensors");
    assert!(succeed(&["convert", &path, &out]).contains("VAE, 162 tensors"));
    let (made, source) = (WeightFile::open(&out).unwrap(), WeightFile::open(&path).unwrap());
    for name in made.entries().keys() {
        assert_eq!(made.tensor(name).unwrap(), source.tensor(&format!("model.{name}")).unwrap());
    }
    for flags in [["--heads", "4"], ["--weights", "ema"]] {
        let error = fail(&[&["convert", &path, &out, "--force"], &flags[..]].concat());
        assert!(error.contains(&format!("{}: applies to models only", flags[0])), "{error}");
    }
}

#[test]
fn types_are_changed_by_rounding() {
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

/// The tiny model's file with the first value of one tensor changed.
fn spoilt(folder: &Folder, value: f32) -> String {
    let from = WeightFile::open(folder.model("good.safetensors", &one_step())).unwrap();
    let mut tensors: BTreeMap<&String, HostTensor> =
        from.entries().keys().map(|name| (name, from.tensor(name).unwrap())).collect();
    let tensor = tensors.get_mut(&"z_proj_ln.weight".to_owned()).unwrap();
    let mut values = tensor.to_f32();
    values[0] = value;
    *tensor = HostTensor::new(&[values.len()], HostData::F32(values)).unwrap();
    let path = folder.path("spoilt.safetensors");
    write_atomic(&path, tensors.iter(), from.metadata()).unwrap();
    path
}

#[test]
fn what_fails_leaves_the_old_file() {
    let folder = Folder::new();
    let out = folder.path("out.safetensors");
    fs::write(&out, "precious").unwrap();
    let good = folder.model("good.safetensors", &one_step());
    assert!(fail(&["convert", &good, &out]).contains("out.safetensors: already exists; add --force"));
    let nan = fail(&["convert", &spoilt(&folder, f32::NAN), &out, "--force"]);
    assert!(nan.contains("spoilt.safetensors: tensor z_proj_ln.weight") && nan.contains("NaN"), "{nan}");
    let large = fail(&["convert", &spoilt(&folder, f32::MAX), &out, "--force", "--dtype", "bf16"]);
    assert!(large.contains("z_proj_ln.weight: expected values within the range of bf16"), "{large}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert_eq!(folder.names(""), ["good.safetensors", "out.safetensors", "spoilt.safetensors"]);
    assert!(fail(&["convert", &good, &folder.path("no/out.safetensors")]).contains("no/out.safetensors"));
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = Folder::new();
    let (path, out) = (folder.path("other.safetensors"), folder.path("out.safetensors"));
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    write_atomic(&path, [("diffdecoder.net.input_proj.weight", &tensor)], &BTreeMap::new()).unwrap();
    assert!(
        fail(&["convert", &path, &out]).contains("class_emb.weight"),
        "a tensor that is missing is named"
    );
    write_atomic(&path, [("x", &tensor)], &BTreeMap::new()).unwrap();
    assert!(
        fail(&["convert", &path, &out]).contains("other.safetensors: expected a TransDiff model or a VAE")
    );
    let good = folder.model("good.safetensors", &one_step());
    assert!(fail(&["convert", &good, &out, "--heads", "4"]).contains("heads"));
    assert!(fail(&["convert", &good, &out, "--weights", "ema"]).contains("good.safetensors"));
}
