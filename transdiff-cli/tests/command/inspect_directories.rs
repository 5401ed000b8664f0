//! `transdiff inspect` of latent caches and training runs.

use std::fs;

use serde_json::{Value, json};

use crate::caching::two_shards;
use crate::drawing::{cache, tiles, train};
use crate::files::Folder;
use crate::inspect::has_row;
use crate::process::{fail, succeed};

fn parsed(path: &str) -> Value {
    serde_json::from_str(&succeed(&["inspect", path, "--json"])).expect("JSON")
}

#[test]
fn cache_summary_shows_header_classes_and_left_out_pictures() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["cat", "dog"], 3), folder.path("cache"));
    fs::write(format!("{data}/dog/1.png"), "no picture").unwrap();
    succeed(&[&cache(&data, "16", &out)[..], &["--on-broken", "skip"]].concat());
    let text = succeed(&["inspect", &out]);
    for row in [
        "kind latent cache",
        "format version 1",
        "codec patch:4",
        "size 16",
        "channels 3",
        "fit crop",
        "mirror images stored",
        "items latents",
        "shape 48x4x4",
        "dtype f32",
        "latent scale 1",
        "pictures 5 of 6 stored, 1 broken and left out",
        "shards 1 of 1 finished, merged",
        "dog/1.png ",
        "cat 3",
        "dog 2",
    ] {
        assert!(has_row(&text, row), "{row}: {text}");
    }
    let summary = parsed(&out);
    assert_eq!((&summary["kind"], &summary["merged"]), (&json!("cache"), &json!(true)));
    assert_eq!(summary["classes"][1], json!({"name": "dog", "pictures": 2}));
    assert_eq!(summary["left_out"][0]["path"], "dog/1.png");
    assert_eq!(summary["header"]["shape"], json!([48, 4, 4]));
    // As a merge of parts that has not been done.
    fs::remove_file(format!("{out}/index.safetensors")).unwrap();
    assert!(succeed(&["inspect", &out]).contains("1 of 1 finished, not merged: transdiff cache --merge"));
}

#[test]
fn unfinished_cache_summary_names_the_missing_shards() {
    let folder = Folder::new();
    let out = folder.path("cache");
    succeed(&[&cache(&two_shards(&folder), "8", &out)[..], &["--part", "1/2"]].concat());
    let text = succeed(&["inspect", &out]);
    assert!(has_row(&text, "shards 1 of 2 finished, missing: 0"), "{text}");
    assert!(has_row(&text, "pictures 12 of 4108 stored") && has_row(&text, "a 8"), "{text}");
    assert_eq!(parsed(&out)["unfinished_shards"], json!([0]));
}

#[test]
fn run_summary_shows_progress_checkpoints_and_settings() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["cat", "dog"], 4), folder.path("run"));
    let settings = ["data.codec=patch:4", "data.size=16", "data.val=0.25", "train.checkpoint_every=2"];
    succeed(&train(&data, &run, "5", &settings));
    let text = succeed(&["inspect", &run]);
    for row in [
        "kind training run",
        "steps 5 of 5",
        "samples 20",
        "loss ",
        "validation loss ",
        "checkpoint-00000004.safetensors ",
        "checkpoint-00000005.safetensors ",
        "model.safetensors ",
        "codec patch:4",
        "image size 16×16",
        "classes 2: cat, dog",
        "model.width 8",
        "train.batch 4",
        "data.val 0.25",
    ] {
        assert!(has_row(&text, row), "{row}: {text}");
    }
    let summary = parsed(&run);
    assert_eq!((&summary["kind"], &summary["steps_done"]), (&json!("run"), &json!(5)));
    let size = fs::metadata(format!("{run}/checkpoint-00000005.safetensors")).unwrap().len();
    assert_eq!(summary["checkpoints"][1]["bytes"], json!(size));
    assert_eq!((&summary["last_report"]["step"], &summary["steps"]), (&json!(5), &json!(5)));

    // A run that has only begun.
    fs::remove_file(format!("{run}/log.jsonl")).unwrap();
    for step in [4, 5] {
        fs::remove_file(format!("{run}/checkpoint-{step:08}.safetensors")).unwrap();
    }
    let text = succeed(&["inspect", &run]);
    assert!(has_row(&text, "steps 0 of 5"), "{text}");
    assert!(!fs::exists(format!("{run}/log.jsonl")).unwrap(), "inspection writes nothing");
}

#[test]
fn other_directories_are_refused_with_what_is_expected() {
    let folder = Folder::new();
    let message = fail(&["inspect", &folder.path("")]);
    let expected = "expected a checkpoint, a latent cache (with cache.json) or a run (with config.toml), got a directory";
    assert!(message.contains(expected), "{message}");
    let message = fail(&["inspect", &folder.path(""), "--tensors"]);
    assert!(message.contains("--tensors, --weights, --heads and --key expect a file"), "{message}");
    fs::write(folder.path("cache.json"), "{}").unwrap();
    assert!(fail(&["inspect", &folder.path("")]).contains("cache.json: no header of a cache"));
}
