//! `transdiff inspect`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use transdiff::checkpoint::write_atomic;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{DType, HostTensor};

use crate::files::{Folder, golden, model, mrar, one_step};
use crate::process::{Done, command, fail, succeed};

fn parsed(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args)).expect("JSON")
}

/// Whether a line of `text` has these words, one after another.
fn says(text: &str, words: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(words))
}

#[test]
fn a_model_is_described() {
    let folder = Folder::new();
    let path = folder.model("model.safetensors", &mrar());
    let text = succeed(&["inspect", &path]);
    for line in [
        "format safetensors",
        "kind TransDiff model",
        "weights single set",
        "heads 2",
        "class_emb 1 160 640 B f32",
    ] {
        assert!(says(&text, line), "{line}: {text}");
    }
    let all = succeed(&["inspect", &path, "--tensors"]);
    assert!(says(&all, "class_emb.weight f32 [10, 16] 640"), "{all}");
    assert!(!says(&text, "class_emb.weight"), "a line a module: {text}");

    let about = parsed(&["inspect", &path, "--json"]);
    assert_eq!(about["config"], json!(mrar()));
    assert_eq!((&about["kind"], &about["weights"]), (&json!("model"), &json!("single")));
    let sum: u64 = about["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(about["total"]["bytes"], json!(sum));
    assert_eq!(about["total"]["values"], about["parameters"]);
    assert_eq!(sum, 4 * about["parameters"].as_u64().unwrap());
}

#[test]
fn a_training_run_is_described_by_its_averaged_model() {
    let folder = Folder::new();
    let path = folder.path("run.safetensors");
    Trainer::new(model(&one_step()), TrainConfig::new(2, 3)).unwrap().save(&path).unwrap();
    let about = parsed(&["inspect", &path, "--json"]);
    assert_eq!((&about["kind"], &about["weights"]), (&json!("training_run"), &json!("ema")));
    let other = parsed(&["inspect", &path, "--json", "--weights", "raw"]);
    assert_eq!(other["weights"], json!("raw"));
    let alias = parsed(&["inspect", &path, "--json", "--weights", "model"]);
    assert_eq!(alias["weights"], json!("raw"));
    let text = succeed(&["inspect", &path]);
    assert!(says(&text, "ema.class_emb 1 160") && says(&text, "transdiff.step 0"), "{text}");
}

#[test]
fn an_autoencoder_is_described() {
    let folder = Folder::new();
    let about = parsed(&["inspect", &folder.vae("vae.safetensors"), "--json"]);
    assert_eq!((&about["kind"], &about["config"]["multipliers"]), (&json!("vae"), &json!([1, 1])));
}

#[test]
fn a_checkpoint_of_pytorch_is_described() {
    let path = golden("checkpoint-last.pth");
    let text = succeed(&["inspect", &path]);
    for line in [
        "format PyTorch",
        "not available: the file does not record the number of attention heads",
        "args.model transdiff_tiny",
        "epoch 3",
    ] {
        assert!(says(&text, line), "{line}: {text}");
    }
    assert!(text.contains("--heads N"), "the remedy: {text}");
    let text = succeed(&["inspect", &path, "--heads", "4"]);
    for line in ["weights EMA", "heads 4", "width 32", "model_ema.class_emb 1 320", "optimizer.state"] {
        assert!(says(&text, line), "{line}: {text}");
    }
    assert_eq!(parsed(&["inspect", &path, "--json"])["config"], Value::Null);
}

#[test]
fn what_is_neither_model_nor_autoencoder_is_still_shown() {
    let folder = Folder::new();
    let path = folder.path("other.safetensors");
    let tensor = HostTensor::f32(&[2, 3], vec![0.5; 6]).unwrap();
    let half = tensor.clone().cast(DType::BF16).unwrap();
    write_atomic(&path, [("a.x", &tensor), ("a.y", &half)], &BTreeMap::new()).unwrap();
    let text = succeed(&["inspect", &path]);
    assert!(says(&text, "kind unknown") && says(&text, "a 2 12 36 B bf16, f32"), "{text}");
    let text = succeed(&["inspect", &golden("malicious.pth")]);
    assert!(says(&text, "args.$python posix.system"), "named, and not run: {text}");
}

#[test]
fn names_from_a_file_do_not_steer_the_terminal() {
    let folder = Folder::new();
    let path = folder.path("other.safetensors");
    let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
    let metadata = BTreeMap::from([("k\u{7}".to_owned(), "\u{1b}]0;title\nfake  line".to_owned())]);
    write_atomic(&path, [("\u{1b}[2J.x\r", &tensor)], &metadata).unwrap();
    for args in [&["inspect", &path][..], &["inspect", &path, "--tensors"], &["inspect", &path, "--json"]] {
        let text = succeed(args);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("fake")), "{text}");
    }
}

#[test]
fn nobody_needs_to_read_the_output() {
    let folder = Folder::new();
    let path = folder.model("model.safetensors", &one_step());
    for flag in ["--tensors", "--json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done: Done = command().args(["inspect", &path, flag]).stdout(writer).output().unwrap().into();
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = Folder::new();
    let path = folder.path("broken.safetensors");
    assert!(fail(&["inspect", &path]).contains("broken.safetensors: No such file"));
    std::fs::write(&path, "not a file of tensors").unwrap();
    assert!(fail(&["inspect", &path]).contains("broken.safetensors"));
    assert!(fail(&["inspect", &folder.path("")]).contains("not a regular file"));
}
