//! `transdiff distill`: from a trained model to images of its student.

use std::fs;

use crate::drawing::{cache, tiles, train};
use crate::files::Folder;
use crate::process::{fail, run, succeed};
use crate::training::failed;

/// Settings of a tiny distillation, in place of the preset's.
const SMALL: [&str; 12] = [
    "--set",
    "train.batch=4",
    "--set",
    "train.checkpoint_every=2",
    "--set",
    "train.sample_every=2",
    // The same for any number of steps.
    "--set",
    "train.warmup=0",
    "--set",
    "train.decay=constant",
    // Without effect: guidance is part of the student.
    "--set",
    "train.sample_guidance=1.3",
];

/// A cache of latents, and a model that was trained on them.
fn trained(folder: &Folder) -> (String, String) {
    let (data, latents, run) =
        (tiles(folder, "pictures", &["a", "b"], 8), folder.path("cache"), folder.path("run"));
    succeed(&cache(&data, "16", &latents));
    succeed(&train(&latents, &run, "2", &["train.lr=1e-2"]));
    (latents, format!("{run}/model.safetensors"))
}

#[test]
fn students_are_made_resumed_and_sampled() {
    let folder = Folder::new();
    let (latents, teacher) = trained(&folder);
    let distil = |out: &str, steps: &str| {
        let args = ["distill", "--teacher", &teacher, "--guidance", "1.5", "--data", &latents, "--out", out];
        succeed(&[&args[..], &["--steps", steps], &SMALL].concat())
    };
    let (whole, begun) = (folder.path("whole"), folder.path("begun"));
    distil(&whole, "4");
    distil(&begun, "2");
    // With its own teacher.
    let moved = folder.path("moved.safetensors");
    fs::rename(&teacher, &moved).unwrap();
    succeed(&["distill", "--resume", &begun, "--steps", "4"]);
    fs::rename(&moved, &teacher).unwrap();
    let [whole_model, resumed] =
        [&whole, &begun].map(|run| fs::read(format!("{run}/model.safetensors")).unwrap());
    assert!(whole_model == resumed);
    // Before the first checkpoint, a run begins with the teacher that was given, not with what an earlier attempt left.
    for file in ["checkpoint-00000002.safetensors", "checkpoint-00000004.safetensors", "model.safetensors"] {
        fs::remove_file(format!("{begun}/{file}")).unwrap();
    }
    fs::write(format!("{begun}/teacher.safetensors"), "of an earlier attempt").unwrap();
    succeed(&["distill", "--resume", &begun]);
    assert!(whole_model == fs::read(format!("{begun}/model.safetensors")).unwrap());
    assert!(succeed(&["inspect", &begun]).contains("distill.guidance"));
    assert!(succeed(&["distill", "--teacher", &teacher, "--data", &latents, "--estimate"]).contains("TFLOP"));
    for run in [&whole, &begun] {
        let settings = fs::read_to_string(format!("{run}/config.toml")).unwrap();
        assert!(settings.contains("[distill]") && settings.contains("guidance = 1.5"), "{settings}");
        assert!(fs::exists(format!("{run}/samples/00000004.png")).unwrap(), "{run}");
    }
    // On pictures, size and codec are those of the teacher.
    let pictures = folder.path("pictures");
    let args = ["distill", "--teacher", &teacher, "--data", &pictures, "--out", &folder.path("on-pictures")];
    succeed(&[&args[..], &["--steps", "2"], &SMALL].concat());
    let model = format!("{whole}/model.safetensors");
    assert!(succeed(&["inspect", &model]).contains("distilled"));
    let sampled = |model: &str, out: &str, flags: &[&str]| {
        let out = folder.path(out);
        let args = ["sample", "--model", model, "--class", "b", "--count", "2", "--out", &out];
        run(&[&args[..], flags].concat())
    };
    let line = sampled(&model, "images", &[]).stderr;
    assert!(
        line.contains("solver: consistency, 2 steps; guidance: 1; 2 evaluations, 2 network passes"),
        "{line}"
    );
    assert!(sampled(&model, "more", &["--steps", "4"]).stderr.contains("4 evaluations"));
    // A converted file is that of a student, too.
    let converted = folder.path("converted.safetensors");
    succeed(&["convert", &model, &converted, "--dtype", "bf16"]);
    assert!(sampled(&converted, "converted", &[]).stderr.contains("solver: consistency, 2 steps"));
    for (model, flags, message) in [
        (
            &model,
            ["--guidance", "1.3"],
            "guidance: expected 1, because guidance is part of the distilled model",
        ),
        (
            &model,
            ["--solver", "heun"],
            "solver: expected consistency, because the model is distilled, got heun",
        ),
        (&model, ["--quality", "fast"], "--quality: expected none, because the model is distilled"),
        (&teacher, ["--solver", "consistency"], "because the model is not distilled, got consistency"),
    ] {
        let done = sampled(model, "none", &flags);
        assert!(done.code == Some(1) && done.stderr.contains(message), "{}", done.stderr);
    }
}

#[test]
fn what_cannot_be_distilled_is_named() {
    let folder = Folder::new();
    let (latents, teacher) = trained(&folder);
    let out = folder.path("student");
    let distil = |teacher: &str, out: &str, more: &[&str]| {
        let args = ["distill", "--teacher", teacher, "--data", &latents, "--out", out, "--steps", "2"];
        failed(&[&args[..], &SMALL, more].concat())
    };
    let missing = distil("none.safetensors", &out, &[]);
    assert!(missing.starts_with("error: --teacher: none.safetensors"), "{missing}");
    let width = distil(&teacher, &out, &["--set", "model.width=48"]);
    let named =
        "expected a model of the sizes in [model] of config.toml, got another: width is 48 there and 8 here";
    assert!(width.contains(named), "{width}");
    let interval = distil(&teacher, &out, &["--set", "distill.guidance_interval=[0.5, 0.2]"]);
    assert!(
        interval.contains("distill.guidance_interval: expected the lower time first, got 0.5, 0.2"),
        "{interval}"
    );
    // Runs go on with the command that began them.
    let args = ["distill", "--teacher", &teacher, "--data", &latents, "--out", &out, "--steps", "2"];
    succeed(&[&args[..], &SMALL].concat());
    let line = fail(&["train", "--resume", &out, "--steps", "4"]);
    assert!(line.contains("expected settings of transdiff train, got some of transdiff distill"), "{line}");
    let line = fail(&["distill", "--resume", &folder.path("run"), "--steps", "4"]);
    assert!(line.contains("expected settings of transdiff distill, got some of transdiff train"), "{line}");
    let student = format!("{out}/model.safetensors");
    let again = distil(&student, &folder.path("again"), &[]);
    assert!(again.contains("expected a model that is not distilled"), "{again}");
    let other = folder.path("other");
    succeed(&cache(&tiles(&folder, "others", &["a", "c"], 8), "16", &other));
    let args = ["distill", "--teacher", &teacher, "--data", &other, "--out", &folder.path("mixed")];
    let line = failed(&[&args[..], &SMALL].concat());
    assert!(line.contains("expected a model trained on the classes of the data, got another"), "{line}");
    let plain = folder.path("plain");
    let line = failed(&["train", "--init", &student, "--data", &latents, "--out", &plain]);
    assert!(line.contains("expected a model that is not distilled"), "{line}");
    let line = fail(&["train", "--preset", "distill", "--data", &latents, "--out", &plain]);
    assert!(line.contains("--preset: distill is the preset of transdiff distill"), "{line}");
    let args = ["distill", "--teacher", &teacher, "--data", &latents, "--out", &plain];
    let line = fail(&[&args[..], &["--set", "train.init=x"]].concat());
    assert!(line.contains("train.init: expected none, because a student begins as its teacher"), "{line}");
}
