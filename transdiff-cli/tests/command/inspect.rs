//! `transdiff inspect`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use transdiff::checkpoint::write_atomic;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{DType, HostTensor};

use crate::archive;
use crate::files::{Folder, golden, model, mrar, one_step};
use crate::pickle;
use crate::process::{RunResult, command, fail, succeed};

fn parsed(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args)).expect("JSON")
}

/// Returns whether a line of `text` starts with these words.
pub fn has_row(text: &str, words: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(words))
}

#[test]
fn model_summary_shows_config_and_modules() {
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
        assert!(has_row(&text, line), "{line}: {text}");
    }
    let all = succeed(&["inspect", &path, "--tensors"]);
    assert!(has_row(&all, "class_emb.weight f32 [10, 16] 640"), "{all}");
    assert!(!has_row(&text, "class_emb.weight"), "one line per module: {text}");

    let summary = parsed(&["inspect", &path, "--json"]);
    assert_eq!(summary["config"], json!(mrar()));
    assert_eq!((&summary["kind"], &summary["weights"]), (&json!("model"), &json!("single")));
    let sum: u64 = summary["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(summary["total"]["bytes"], json!(sum));
    assert_eq!(summary["total"]["values"], summary["parameters"]);
    assert_eq!(sum, 4 * summary["parameters"].as_u64().unwrap());
}

#[test]
fn training_run_summary_defaults_to_ema_weights() {
    let folder = Folder::new();
    let path = folder.path("run.safetensors");
    Trainer::new(model(&one_step()), TrainConfig::new(2, 3)).unwrap().save(&path).unwrap();
    let summary = parsed(&["inspect", &path, "--json"]);
    assert_eq!((&summary["kind"], &summary["weights"]), (&json!("training_run"), &json!("ema")));
    let raw = parsed(&["inspect", &path, "--json", "--weights", "raw"]);
    assert_eq!(raw["weights"], json!("raw"));
    let alias = parsed(&["inspect", &path, "--json", "--weights", "model"]);
    assert_eq!(alias["weights"], json!("raw"));
    let text = succeed(&["inspect", &path]);
    assert!(has_row(&text, "ema.class_emb 1 160") && has_row(&text, "transdiff.step 0"), "{text}");
}

#[test]
fn vae_summary_shows_config() {
    let folder = Folder::new();
    let summary = parsed(&["inspect", &folder.vae("vae.safetensors"), "--json"]);
    assert_eq!((&summary["kind"], &summary["config"]["multipliers"]), (&json!("vae"), &json!([1, 1])));
}

#[test]
fn pytorch_checkpoint_summary_shows_training_arguments() {
    let path = golden("checkpoint-last.pth");
    let text = succeed(&["inspect", &path]);
    for line in [
        "format PyTorch",
        "not available: the file does not record the number of attention heads",
        "args.model transdiff_tiny",
        "epoch 3",
    ] {
        assert!(has_row(&text, line), "{line}: {text}");
    }
    assert!(text.contains("--heads N"), "{text}");
    let text = succeed(&["inspect", &path, "--heads", "4"]);
    for line in ["weights EMA", "heads 4", "width 32", "model_ema.class_emb 1 320", "optimizer.state"] {
        assert!(has_row(&text, line), "{line}: {text}");
    }
    assert_eq!(parsed(&["inspect", &path, "--json"])["config"], Value::Null);
}

#[test]
fn large_data_is_shown_as_skipped() {
    let folder = Folder::new();
    let path = folder.path("log.pth");
    let log: Vec<Vec<u8>> = (0..200_000).map(|i| pickle::text(&format!("step {i}"))).collect();
    let root = pickle::dict(&[("log", pickle::list(&log)), ("epoch", pickle::int(3))]);
    std::fs::write(&path, archive::zip(&archive::checkpoint(&pickle::pickle(&root), &[]))).unwrap();
    let text = succeed(&["inspect", &path]);
    assert!(has_row(&text, "log … (skipped: too large)") && has_row(&text, "epoch 3"), "{text}");
}

#[test]
fn unknown_files_are_listed_without_a_config() {
    let folder = Folder::new();
    let path = folder.path("other.safetensors");
    let tensor = HostTensor::f32(&[2, 3], vec![0.5; 6]).unwrap();
    let half = tensor.clone().cast(DType::BF16).unwrap();
    write_atomic(&path, [("a.x", &tensor), ("a.y", &half)], &BTreeMap::new()).unwrap();
    let text = succeed(&["inspect", &path]);
    assert!(has_row(&text, "kind unknown") && has_row(&text, "a 2 12 36 B bf16, f32"), "{text}");
    let text = succeed(&["inspect", &golden("malicious.pth")]);
    assert!(has_row(&text, "args.$python posix.system"), "listed, not executed: {text}");
}

#[test]
fn control_characters_in_names_are_escaped() {
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
fn broken_pipe_exits_zero() {
    let folder = Folder::new();
    let path = folder.model("model.safetensors", &one_step());
    for flag in ["--tensors", "--json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done: RunResult =
            command().args(["inspect", &path, flag]).stdout(writer).output().unwrap().into();
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn unreadable_files_are_named() {
    let folder = Folder::new();
    let path = folder.path("broken.safetensors");
    assert!(fail(&["inspect", &path]).contains("broken.safetensors: No such file"));
    std::fs::write(&path, "not a checkpoint").unwrap();
    assert!(fail(&["inspect", &path]).contains("broken.safetensors"));
}
