//! `transdiff train`: runs on caches and pictures, from their first step to samples.

use std::fs;

use serde_json::Value;
use transdiff::HostTensor;
use transdiff::checkpoint::WeightFile;

use crate::drawing::{cache, latents, resume, tiles, train};
use crate::files::Folder;
use crate::process::{RunResult, fail, run, succeed};
use crate::runs::logged;
use crate::sample::decoded;

/// Settings of a run on pictures.
const PICTURES: [&str; 2] = ["data.codec=patch:4", "data.size=16"];

/// Runs the command, which must succeed.
fn done(args: &[&str]) -> RunResult {
    let done = run(args);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// Runs the command, which must fail while it runs, and returns the last line on stderr.
pub fn failed(args: &[&str]) -> String {
    let done = run(args);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{}", done.stderr);
    done.stderr.lines().last().expect("a message").to_owned()
}

fn has_line(done: &RunResult, start: &str, part: &str) -> bool {
    done.stderr.lines().any(|line| line.starts_with(start) && line.contains(part))
}

fn tensor(path: &str, name: &str) -> HostTensor {
    WeightFile::open(path).unwrap().tensor(name).unwrap()
}

/// A folder with pictures of two classes, their cache, and a run of two steps on it.
fn trained() -> (Folder, String, String) {
    let folder = Folder::new();
    let (data, latents, run) =
        (tiles(&folder, "pictures", &["a", "b"], 8), folder.path("cache"), folder.path("run"));
    succeed(&cache(&data, "16", &latents));
    succeed(&train(&latents, &run, "2", &["train.lr=1e-2"]));
    (folder, latents, run)
}

#[test]
fn initial_weights_are_those_that_were_asked_for() {
    let (folder, latents, run) = trained();
    let (model, checkpoint) =
        (format!("{run}/model.safetensors"), format!("{run}/checkpoint-00000002.safetensors"));
    let name = "decoder_blocks.0.mlp.fc1.weight";
    let name = WeightFile::open(&model)
        .unwrap()
        .entries()
        .iter()
        .find(|(_, entry)| entry.shape().len() == 2)
        .map_or(name.to_owned(), |(name, _)| name.clone());
    let [raw, ema] = ["model", "ema"].map(|set| tensor(&checkpoint, &format!("{set}.{name}")));
    assert!(raw != ema && ema == tensor(&model, &name));
    // A step that moves nothing.
    let still = ["train.lr=0", "train.ema_decay=1", "train.ema_warmup=false"];
    for (number, (file, weights, expected)) in [
        (&model, "ema", [&ema, &ema]),
        (&checkpoint, "ema", [&ema, &ema]),
        (&checkpoint, "raw", [&raw, &raw]),
        (&checkpoint, "published", [&raw, &ema]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path(&format!("from-{number}"));
        let args = train(&latents, &out, "1", &still);
        let done = done(&[&args[..], &["--init", file, "--init-weights", weights]].concat());
        assert!(has_line(&done, file, "all weights taken over"), "{}", done.stderr);
        let out = format!("{out}/checkpoint-00000001.safetensors");
        let got = ["model", "ema"].map(|set| tensor(&out, &format!("{set}.{name}")));
        assert!([&got[0], &got[1]] == expected, "{weights} of {file}");
    }
}

#[test]
fn tensors_that_start_anew_are_named() {
    let (folder, latents, run) = trained();
    let model = format!("{run}/model.safetensors");
    let (more, other) = (tiles(&folder, "more", &["a", "b", "c"], 4), folder.path("other"));
    let args = [&train(&more, &other, "1", &PICTURES)[..], &["--init", &model]].concat();
    assert!(has_line(&done(&args), &model, "new tensors: class_emb.weight"));
    let mrar = folder.path("mrar");
    let args = [&train(&latents, &mrar, "1", &["model.groups=4"])[..], &["--init", &model]].concat();
    let done = done(&args);
    assert!(has_line(&done, &model, "new tensors: "), "{}", done.stderr);
    assert!(!done.stderr.contains("class_emb.weight"), "{}", done.stderr);
}

#[test]
fn initial_weights_outlast_a_kill_before_the_first_checkpoint() {
    let (folder, latents, run) = trained();
    let (model, out) = (format!("{run}/model.safetensors"), folder.path("out"));
    succeed(&[&train(&latents, &out, "1", &["train.lr=0"])[..], &["--init", &model]].concat());
    let first = fs::read(format!("{out}/model.safetensors")).unwrap();
    for name in ["checkpoint-00000001.safetensors", "model.safetensors"] {
        fs::remove_file(format!("{out}/{name}")).unwrap();
    }
    succeed(&resume(&out, &[]));
    assert!(fs::read(format!("{out}/model.safetensors")).unwrap() == first);
}

#[test]
fn wrong_initial_weights_are_errors() {
    let (folder, latents, first) = trained();
    let out = folder.path("out");
    let args = train(&latents, &out, "1", &[]);
    let missing = folder.path("missing.safetensors");
    let line = failed(&[&args[..], &["--init", &missing]].concat());
    assert!(line.contains("missing.safetensors: No such file"), "{line}");
    assert!(!fs::exists(format!("{out}/config.toml")).unwrap(), "the directory can be given again");
    let (vae, model) = (folder.vae("vae.safetensors"), format!("{first}/model.safetensors"));
    let line = failed(&[&args[..], &["--init", &vae]].concat());
    assert!(line.contains("vae.safetensors: "), "{line}");
    let single = ["--init", &model, "--init-weights", "published"];
    let line = failed(&[&args[..], &single].concat());
    assert!(line.contains("model.safetensors: "), "{line}");
    succeed(&args);
    let both = run(&["train", "--resume", &first, "--init", &model]);
    assert!(both.code == Some(2) && both.stderr.contains("--init"), "{}", both.stderr);
}

#[test]
fn resumed_runs_keep_fixed_settings_and_say_what_changed() {
    let (_folder, _, first) = trained();
    let line = fail(&resume(&first, &["model.width=16"]));
    assert!(line.contains("model.width: 16, before 8; it cannot change when a run is resumed"), "{line}");
    let line = fail(&resume(&first, &["train.seed=1"]));
    assert!(line.contains("train.seed: 1, before 0"), "{line}");
    let done = done(&[&resume(&first, &["train.batch=3"])[..], &["--steps", "4"]].concat());
    assert!(done.stderr.contains("changed: train.batch: 3, before 4\nchanged: train.steps: 4, before 2\n"));
    assert!(has_line(&done, "going on after step 2: ", "checkpoint-00000002"), "{}", done.stderr);
    assert_eq!(logged(&first, "samples"), [8, 14]);
    let again = fail(&train("anywhere", &first, "1", &[]));
    assert!(again.contains("anywhere"), "{again}");
}

#[test]
fn losses_that_are_not_finite_stop_the_run_with_step_and_checkpoint() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |i| i == 5), folder.path("run"));
    let line = failed(&train(&data, &out, "64", &["train.checkpoint_every=1"]));
    let steps = logged(&out, "step").len();
    assert!(line.starts_with("error: step ") && line.contains("the last checkpoint is "), "{line}");
    let step: u64 = line["error: step ".len()..].split(':').next().unwrap().parse().unwrap();
    assert!((1..=16).contains(&step) && steps as u64 == (step - 1) / 4, "one sample of 64 is huge: {line}");
    assert!(line.contains(&format!("checkpoint-{:08}.safetensors", step - 1)) || step == 1, "{line}");
    assert!(line.contains("loss") || line.contains("gradient"), "{line}");

    let first = folder.path("first");
    let all = latents(&folder, "all", |_| true);
    let line = failed(&train(&all, &first, "9", &[]));
    assert!(line.starts_with("error: step 1: ") && line.contains("there is no checkpoint yet"), "{line}");
}

#[test]
fn rollback_skips_the_samples_and_goes_on() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |i| i == 5), folder.path("run"));
    let settings = ["train.on_nonfinite=rollback", "train.checkpoint_every=2", "train.report_every=1"];
    let done = done(&train(&data, &out, "20", &settings));
    assert!(has_line(&done, "step ", "the step's samples are skipped"), "{}", done.stderr);
    let steps: Vec<Value> = (1..=20).map(Value::from).collect();
    assert_eq!(logged(&out, "step"), steps);
    assert!(logged(&out, "samples").last().unwrap().as_u64().unwrap() > 80, "samples are skipped");
    assert!(logged(&out, "loss").iter().all(Value::is_number));
}

#[test]
fn rollback_gives_up_after_ten() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let settings = ["train.on_nonfinite=rollback", "train.lr=1e30", "train.warmup=0"];
    let line = failed(&train(&data, &out, "20", &settings));
    assert!(line.contains("10 rollbacks did not help; there is no checkpoint yet"), "{line}");
}

#[test]
fn mrar_runs_with_and_without_an_index() {
    let (folder, latents, _) = trained();
    let (index, with, without) = (folder.path("index.jsonl"), folder.path("with"), folder.path("without"));
    let lines = [
        r#"{"cate": "a", "files": ["0.png", "1.png", "2.png", "3.png"]}"#,
        r#"{"cate": "b", "files": ["b/4.npz", "train/b/5.png", "6.JPEG", "7"]}"#,
        r#"{"cate": "b", "files": ["0.png", "1.png", "2.png", "900.png"]}"#,
        r#"{"cate": "a", "files": ["0.png", "1.png", "901.png", "902.png"]}"#,
        r#"{"cate": "a", "files": ["0.png", "1.png", "2.png", "2.png"]}"#,
    ];
    fs::write(&index, lines.join("\n")).unwrap();
    let groups = ["model.groups=4"];
    let done = done(&[&train(&latents, &with, "3", &groups)[..], &["--mrar-index", &index]].concat());
    let missing =
        format!("{index}: 2 samples have pictures that are not in the cache: 900.png, 901.png, 902.png");
    assert!(done.stderr.lines().any(|line| line == missing), "{}", done.stderr);
    assert!(done.stderr.contains("1 samples have a picture twice"), "{}", done.stderr);
    succeed(&train(&latents, &without, "3", &groups));
    for out in [&with, &without] {
        assert_eq!(logged(out, "step"), [3]);
    }
    assert_ne!(logged(&with, "loss"), logged(&without, "loss"));
    fs::write(&index, lines[2]).unwrap();
    let other = folder.path("other");
    let line = failed(&[&train(&latents, &other, "3", &groups)[..], &["--mrar-index", &index]].concat());
    assert!(line.contains("no sample whose pictures are in the cache"), "{line}");
    let pictures = folder.path("pictures");
    let settings = [&groups[..], &PICTURES].concat();
    let line = failed(&[&train(&pictures, &other, "3", &settings)[..], &["--mrar-index", &index]].concat());
    assert!(line.contains("data.mrar_index: expected a latent cache"), "{line}");
}

#[test]
fn validation_loss_is_in_every_report_and_a_function_of_the_weights() {
    let (folder, latents, _) = trained();
    let (data, held_out) = (folder.path("pictures"), tiles(&folder, "held-out", &["a", "b"], 3));
    let held_out_cache = folder.path("held-out-cache");
    succeed(&cache(&held_out, "16", &held_out_cache));
    let (folder_val, cache_val) = (format!("data.val={held_out}"), format!("data.val={held_out_cache}"));
    let still = ["train.lr=0", "train.report_every=1", "train.checkpoint_every=1"];
    for (number, (data, val)) in
        [(&latents, "data.val=0.25"), (&latents, &cache_val), (&data, "data.val=0.25"), (&data, &folder_val)]
            .into_iter()
            .enumerate()
    {
        let out = folder.path(&format!("run-{number}"));
        let settings = [&still[..], &[val]].concat();
        let settings = if data == &latents { settings } else { [&settings[..], &PICTURES].concat() };
        succeed(&train(data, &out, "2", &settings));
        succeed(&[&resume(&out, &[])[..], &["--steps", "3"]].concat());
        let losses = logged(&out, "val_loss");
        assert!(
            losses.len() == 3 && losses.iter().all(|loss| loss.is_number() && *loss == losses[0]),
            "{losses:?}"
        );
        assert_ne!(logged(&out, "loss")[0], losses[0]);
    }
    let other = tiles(&folder, "other", &["a", "z"], 1);
    let val = format!("data.val={other}");
    let line = failed(&train(&data, &folder.path("refused"), "1", &[&PICTURES[..], &[&val]].concat()));
    assert!(line.contains("are not classes of the training data") && line.contains('z'), "{line}");
}

#[test]
fn broken_pictures_stop_a_run_or_are_skipped_and_counted() {
    let folder = Folder::new();
    let data = tiles(&folder, "pictures", &["a", "b"], 4);
    fs::write(format!("{data}/b/2.png"), "no picture").unwrap();
    let line = failed(&train(&data, &folder.path("stopped"), "2", &PICTURES));
    assert!(line.starts_with("error: ") && line.contains("b/2.png"), "{line}");
    let skip = [&PICTURES[..], &["data.on_broken=skip"]].concat();
    let done = done(&train(&data, &folder.path("skipped"), "4", &skip));
    assert!(has_line(&done, "1 broken picture is skipped: ", "b/2.png"), "{}", done.stderr);
}

#[test]
fn estimate_has_a_row_for_every_kind_of_memory_and_the_time() {
    let (_folder, latents, _) = trained();
    let text = succeed(&[&train(&latents, "never", "50", &[])[..], &["--estimate"]].concat());
    for row in [
        "estimate, device cpu",
        "weights",
        "optimiser",
        "EMA weights",
        "gradients",
        "activations",
        "memory in all",
        "while a checkpoint is written, at most",
        "steps",
        "samples per step",
        "samples per epoch",
        "TFLOP per step",
        "seconds per step",
        "time in all",
    ] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(row)), "{row}: {text}");
    }
    assert!(!fs::exists("never").unwrap());
}

#[test]
fn runs_are_sampled_by_class_name_without_further_flags() {
    let (folder, _, run) = trained();
    let (model, out) = (format!("{run}/model.safetensors"), folder.path("out"));
    let args = ["sample", "--model", &model, "--class", "b,0", "--count", "1", "--steps", "2", "--out", &out];
    succeed(&args);
    assert_eq!(folder.names("out"), ["a-0.png", "b-0.png", "grid.png"]);
    let (kind, width, height, _) = decoded(&format!("{out}/b-0.png"));
    assert!(kind == png::ColorType::Rgb && (width, height) == (16, 16));
}

#[test]
fn runs_with_a_codec_file_are_complete_in_their_directory() {
    let folder = Folder::new();
    let (data, vae) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.vae("kl.safetensors"));
    let (latents, out) = (folder.path("cache"), folder.path("run"));
    succeed(&["cache", "--data", &data, "--codec", &vae, "--size", "8", "--out", &latents, "--threads", "1"]);
    let bytes = fs::read(&vae).unwrap();
    fs::remove_file(&vae).unwrap();
    assert!(fs::read(format!("{latents}/kl.safetensors")).unwrap() == bytes);
    succeed(&train(&latents, &out, "2", &["train.sample_every=2", "train.sample_steps=2"]));
    assert!(fs::exists(format!("{out}/samples/00000002.png")).unwrap());
    fs::remove_dir_all(&latents).unwrap();
    fs::rename(&out, folder.path("moved")).unwrap();
    let (model, images) = (folder.path("moved/model.safetensors"), folder.path("images"));
    succeed(&["sample", "--model", &model, "--class", "a", "--steps", "2", "--out", &images]);
    assert_eq!(decoded(&format!("{images}/a-0.png")).1, 8);
}

#[test]
fn runs_on_pictures_resume_when_the_codec_has_gone() {
    let folder = Folder::new();
    let (data, vae) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.vae("kl.safetensors"));
    let (out, codec) = (folder.path("run"), format!("data.codec={vae}"));
    succeed(&train(&data, &out, "1", &["data.size=8", &codec]));
    fs::remove_file(&vae).unwrap();
    succeed(&[&resume(&out, &[])[..], &["--steps", "2"]].concat());
}

#[test]
fn shares_that_hold_nothing_out_are_named() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    let more = ["data.codec=patch:4", "data.size=16", "data.val=0.01"];
    let message = fail(&train(&data, &out, "1", &more));
    assert!(
        message.starts_with("error: data.val: expected a share that divides 8 items in 2 classes"),
        "{message}"
    );
}
