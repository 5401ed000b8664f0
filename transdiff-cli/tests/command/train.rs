//! `transdiff train`: settings from presets, files and flags.

use crate::files::Folder;
use crate::process::{fail, run, succeed};

/// Arguments of a run that is not started.
const DRY: [&str; 6] = ["train", "--data", "pictures", "--out", "run", "--dry-run"];

fn dry_run(more: &[&str]) -> String {
    succeed(&[&DRY, more].concat())
}

#[test]
fn flags_and_assignments_replace_the_preset() {
    let settings = dry_run(&[]);
    assert!(settings.contains("path = \"pictures\"\n") && settings.contains("steps = 3000\n"), "{settings}");
    let settings =
        dry_run(&["--steps", "1500", "--codec", "patch:4", "--size", "32", "--set", "train.lr=1e-3"]);
    for line in ["steps = 1500", "codec = \"patch:4\"", "size = 32", "lr = 0.001"] {
        assert!(settings.lines().any(|given| given == line), "{line}: {settings}");
    }
    let settings = dry_run(&["--preset", "paper-large-mrar", "--set", "train.batch=32"]);
    for line in ["width = 1024", "groups = 4", "epochs = 40.0", "batch = 32"] {
        assert!(settings.lines().any(|given| given == line), "{line}: {settings}");
    }
}

#[test]
fn a_file_stands_between_preset_and_flags() {
    let folder = Folder::new();
    let file = folder.path("run.toml");
    std::fs::write(&file, "[train]\nsteps = 7\nbatch = 8\n").unwrap();
    let settings = dry_run(&["--config", &file, "--steps", "9"]);
    assert!(settings.contains("steps = 9\n") && settings.contains("batch = 8\n"), "{settings}");
    std::fs::write(&file, "[train]\nlrr = 1\n").unwrap();
    let message = fail(&[&DRY[..], &["--config", &file]].concat());
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
    let directory = folder.path("run");
    std::fs::create_dir(&directory).unwrap();
    let settings = dry_run(&["--codec", "patch:4"]);
    std::fs::write(format!("{directory}/config.toml"), &settings).unwrap();
    let resume = ["train", "--resume", &directory, "--dry-run"];
    assert_eq!(succeed(&resume), settings);
    let done = run(&[&resume[..], &["--steps", "9", "--set", "train.batch=16"]].concat());
    assert_eq!(done.stderr, "changed: train.batch: 16, before none\nchanged: train.steps: 9, before 3000\n");
    assert!(done.stdout.contains("steps = 9\n"), "{}", done.stdout);
    let message = fail(&[&resume[..], &["--codec", "patch:2"]].concat());
    assert!(message.contains("data.codec: \"patch:2\", before \"patch:4\""), "{message}");
    let message = fail(&["train", "--resume", &folder.path("missing"), "--dry-run"]);
    assert!(message.contains("config.toml"), "{message}");
}
