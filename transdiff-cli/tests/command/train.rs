//! `transdiff train`: settings from presets, files and flags.

use crate::drawing::tiles;
use crate::files::Folder;
use crate::process::{fail, run, succeed};

/// Arguments of a run on pictures that is not started.
fn dry<'a>(pictures: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args =
        ["train", "--data", pictures, "--codec", "patch:4", "--size", "16", "--out", "run", "--dry-run"];
    [&args, more].concat()
}

fn dry_run(pictures: &str, more: &[&str]) -> String {
    succeed(&dry(pictures, more))
}

fn pictures(folder: &Folder) -> String {
    tiles(folder, "pictures", &["a", "b"], 4)
}

#[test]
fn flags_and_assignments_replace_the_preset() {
    let folder = Folder::new();
    let pictures = pictures(&folder);
    let settings = dry_run(&pictures, &[]);
    assert!(settings.contains(&format!("path = \"{pictures}\"\n")), "{settings}");
    for line in ["steps = 3000", "classes = 2", "latent_channels = 48", "latent_size = 4", "width = 96"] {
        assert!(settings.lines().any(|given| given == line), "{line}: {settings}");
    }
    let settings = dry_run(&pictures, &["--steps", "1500", "--set", "train.lr=1e-3"]);
    for line in ["steps = 1500", "codec = \"patch:4\"", "size = 16", "lr = 0.001"] {
        assert!(settings.lines().any(|given| given == line), "{line}: {settings}");
    }
    let paper = ["--preset", "paper-large-mrar", "--set", "train.batch=32", "--size", "256"];
    let channels = ["--set", "model.latent_channels=768", "--set", "data.codec=patch:16"];
    let without_size = dry(&pictures, &[]).into_iter().filter(|arg| !["--size", "16"].contains(arg));
    let args: Vec<&str> = without_size.chain(paper).chain(channels).collect();
    let settings = succeed(&args);
    for line in ["width = 1024", "groups = 4", "epochs = 40.0", "batch = 32"] {
        assert!(settings.lines().any(|given| given == line), "{line}: {settings}");
    }
}

#[test]
fn printed_settings_are_read_back_to_the_same() {
    let folder = Folder::new();
    let (pictures, file) = (pictures(&folder), folder.path("run.toml"));
    for more in [
        &[][..],
        &["--set", "train.epochs=3", "--set", "train.warmup_epochs=0.5", "--set", "data.val=0.25"],
        &["--init", "some.safetensors", "--init-weights", "raw", "--set", "train.decay=cosine"],
    ] {
        let settings = dry_run(&pictures, more);
        std::fs::write(&file, &settings).unwrap();
        assert_eq!(succeed(&["train", "--config", &file, "--out", "run", "--dry-run"]), settings);
    }
}

#[test]
fn a_file_stands_between_preset_and_flags() {
    let folder = Folder::new();
    let (pictures, file) = (pictures(&folder), folder.path("run.toml"));
    std::fs::write(&file, "[train]\nsteps = 7\nbatch = 8\n").unwrap();
    let settings = dry_run(&pictures, &["--config", &file, "--steps", "9"]);
    assert!(settings.contains("steps = 9\n") && settings.contains("batch = 8\n"), "{settings}");
    std::fs::write(&file, "[train]\nlrr = 1\n").unwrap();
    let message = fail(&dry(&pictures, &["--config", &file]));
    assert_eq!(message, format!("error: {file}: unknown key train.lrr; did you mean train.lr?"));
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
    let (pictures, directory) = (pictures(&folder), folder.path("run"));
    std::fs::create_dir(&directory).unwrap();
    let settings = dry_run(&pictures, &["--set", "train.batch=8"]);
    std::fs::write(format!("{directory}/config.toml"), &settings).unwrap();
    let resume = ["train", "--resume", &directory, "--dry-run"];
    assert_eq!(succeed(&resume), settings);
    let done = run(&[&resume[..], &["--steps", "9", "--set", "train.batch=16"]].concat());
    assert_eq!(done.stderr, "changed: train.batch: 16, before 8\nchanged: train.steps: 9, before 3000\n");
    assert!(done.stdout.contains("steps = 9\n"), "{}", done.stdout);
    let message = fail(&[&resume[..], &["--codec", "patch:2"]].concat());
    assert!(message.contains("data.codec: \"patch:2\", before \"patch:4\""), "{message}");
    let message = fail(&["train", "--resume", &folder.path("missing"), "--dry-run"]);
    assert!(message.contains("config.toml"), "{message}");
}
