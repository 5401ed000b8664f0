//! `transdiff train`: settings from presets, files and flags.

use crate::files::Folder;
use crate::process::{fail, run, succeed};

/// Writes four pictures in two class folders, and returns their folder.
fn pictures(folder: &Folder) -> String {
    let root = folder.path("pictures");
    for name in ["a/0.png", "a/1.png", "b/0.png", "b/1.png"] {
        let path = std::path::Path::new(&root).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = png::Encoder::new(file, 8, 8).write_header().unwrap();
        writer.write_image_data(&[128; 64]).unwrap();
    }
    root
}

/// Arguments that print the settings of a run on the pictures in `data`.
fn dry(data: &str) -> [&str; 8] {
    ["train", "--data", data, "--codec", "patch:4", "--size", "32", "--dry-run"]
}

fn has_lines(settings: &str, lines: &[&str]) {
    for line in lines {
        assert!(settings.lines().any(|given| given == *line), "{line}: {settings}");
    }
}

#[test]
fn flags_and_assignments_replace_the_preset() {
    let folder = Folder::new();
    let data = pictures(&folder);
    let settings = succeed(&dry(&data));
    has_lines(&settings, &["steps = 3000", "width = 96", "classes = 2", "codec = \"patch:4\"", "size = 32"]);
    let more = ["--steps", "1500", "--set", "train.lr=1e-3", "--set", "model.width=32"];
    has_lines(&succeed(&[&dry(&data)[..], &more].concat()), &["steps = 1500", "lr = 0.001", "width = 32"]);
}

#[test]
fn printed_settings_are_read_back_to_the_same() {
    let folder = Folder::new();
    let (data, file) = (pictures(&folder), folder.path("run.toml"));
    for more in [
        &[][..],
        &["--set", "train.epochs=3", "--set", "train.warmup_epochs=0.5", "--set", "data.val=0.25"],
        &["--init", "some.safetensors", "--init-weights", "raw", "--set", "train.decay=cosine"],
    ] {
        let settings = succeed(&[&dry(&data)[..], more].concat());
        std::fs::write(&file, &settings).unwrap();
        assert_eq!(succeed(&["train", "--config", &file, "--dry-run"]), settings);
    }
}

#[test]
fn a_file_stands_between_preset_and_flags() {
    let folder = Folder::new();
    let (data, file) = (pictures(&folder), folder.path("run.toml"));
    std::fs::write(&file, "[train]\nsteps = 7\nbatch = 8\n").unwrap();
    let settings = succeed(&[&dry(&data)[..], &["--config", &file, "--steps", "9"]].concat());
    has_lines(&settings, &["steps = 9", "batch = 8"]);
    std::fs::write(&file, "[train]\nlrr = 1\n").unwrap();
    let message = fail(&[&dry(&data)[..], &["--config", &file]].concat());
    assert_eq!(message, format!("error: {file}: unknown key train.lrr; did you mean train.lr?"));
}

#[test]
fn the_settings_of_the_fashion_example_are_read() {
    let folder = Folder::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/fashion/train.toml");
    let settings = succeed(&[&dry(&pictures(&folder))[..], &["--config", file]].concat());
    has_lines(&settings, &["steps = 7000", "batch = 32", "ema_decay = 0.998"]);
}

#[test]
fn wrong_settings_are_one_line() {
    for (more, message) in [
        (["--set", "train.lrr=1"], "--set: unknown key train.lrr; did you mean train.lr?"),
        (
            ["--set", "train.batch=many"],
            "--set: train.batch: expected an integer from 1 to 4294967295, got \"many\"",
        ),
        (["--config", "no-such-file"], "no-such-file: "),
        (["--preset", "smal"], "--preset: expected one of small, "),
        (["--data", ""], "--data: data.path: expected text, got \"\""),
    ] {
        let args = [&["train", "--out", "run", "--dry-run"], &more[..]].concat();
        let args = if more[0] == "--data" { args } else { [&args[..], &["--data", "pictures"]].concat() };
        let line = fail(&args);
        assert!(line.starts_with(&format!("error: {message}")), "{line}");
    }
}

#[test]
fn resuming_takes_the_settings_of_the_run_and_says_what_changes() {
    let folder = Folder::new();
    let (data, directory) = (pictures(&folder), folder.path("run"));
    std::fs::create_dir(&directory).unwrap();
    let settings = succeed(&[&dry(&data)[..], &["--set", "train.batch=8"]].concat());
    std::fs::write(format!("{directory}/config.toml"), &settings).unwrap();
    let resume = ["train", "--resume", &directory, "--dry-run"];
    assert_eq!(succeed(&resume), settings);
    let done = run(&[&resume[..], &["--steps", "9", "--set", "train.batch=16"]].concat());
    assert_eq!(done.stderr, "changed: train.batch: 16, before 8\nchanged: train.steps: 9, before 3000\n");
    has_lines(&done.stdout, &["steps = 9", "batch = 16"]);
    let message = fail(&[&resume[..], &["--codec", "patch:2"]].concat());
    assert!(message.contains("data.codec: \"patch:2\", before \"patch:4\""), "{message}");
    let message = fail(&["train", "--resume", &folder.path("missing"), "--dry-run"]);
    assert!(message.contains("config.toml"), "{message}");
}
