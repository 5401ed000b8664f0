//! Signals: an interrupt ends `transdiff sample` with the images that are complete, and ignored signals stay ignored.

#![cfg(unix)]

use std::process::{Child, Command, Stdio};

use transdiff::checkpoint::WeightFile;

use crate::files::{Folder, one_step};
use crate::process::{RunResult, ignoring, interruptible, send, wait_for};

/// Starts `transdiff sample` with small batches, and returns when it has written the image of seed 1.
fn start_sampling(folder: &Folder, mut command: Command, more: &[&str]) -> Child {
    let (model, out) = (folder.model("model.safetensors", &one_step()), folder.path("out"));
    let mut running = command
        .args(["sample", "--model", &model, "--class", "1", "--batch", "1", "--out", &out])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut running, || std::fs::exists(format!("{out}/1-1.png")).unwrap());
    running
}

#[test]
fn interrupt_keeps_completed_images() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let folder = Folder::new();
        let (out, latents) = (folder.path("out"), folder.path("latents.safetensors"));
        let more = ["--count", "10000", "--steps", "50", "--latents", &latents];
        let running = start_sampling(&folder, interruptible(), &more);
        send(signal, &running);
        let done = RunResult::from(running.wait_with_output().unwrap());
        assert_eq!((done.code, done.stdout.as_str()), (Some(130), ""), "{}", done.stderr);
        let images = folder.names("out").len() - 1;
        let line = format!(
            "interrupted: {images} of 10000 images are complete, in {out}; run the command again to go on"
        );
        assert_eq!(done.stderr.lines().last(), Some(&*line), "{images} images and the grid");
        assert_eq!(crate::sample::decoded(&format!("{out}/1-0.png")).1, 8);
        assert_eq!(crate::sample::decoded(&format!("{out}/grid.png")).0, png::ColorType::Grayscale);
        let latents = WeightFile::open(latents).unwrap().tensor("latents").unwrap();
        assert_eq!(latents.shape(), [images, 4, 4, 4]);
    }
}

/// As `nohup` and shells start programs that are to survive a logout or an interrupt of the foreground.
#[test]
fn ignored_signals_stay_ignored() {
    let signals = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];
    let folder = Folder::new();
    let running = start_sampling(&folder, ignoring(&signals), &["--count", "40", "--steps", "50"]);
    signals.into_iter().for_each(|signal| send(signal, &running));
    let done = RunResult::from(running.wait_with_output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.starts_with("40 images in "), "{}", done.stdout);
}

/// Ignoring one signal leaves the others as they are.
#[test]
fn interrupt_ends_a_command_that_ignores_hangups() {
    let folder = Folder::new();
    let more = ["--count", "10000", "--steps", "50"];
    let running = start_sampling(&folder, ignoring(&[libc::SIGHUP]), &more);
    send(libc::SIGHUP, &running);
    send(libc::SIGTERM, &running);
    let done = RunResult::from(running.wait_with_output().unwrap());
    assert_eq!(done.code, Some(130), "{}", done.stderr);
}
