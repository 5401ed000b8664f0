//! Kills, signals and full disks: what is there afterwards loads, and runs end as uninterrupted ones.

#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use transdiff::rng::{Purpose, StreamKey};

use crate::drawing::{cache, resume, shapes, tiles, train};
use crate::files::Folder;
use crate::process::{RunResult, fail, interruptible, run_limited, send, succeed, wait_for};
use crate::runs::{checkpoint, newest, tensors};

fn spawn(args: &[&str]) -> Child {
    let mut command = interruptible();
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Temporary files below a directory.
fn strays(folder: &Folder, inside: &str) -> usize {
    let count =
        |inside: &str| folder.names(inside).iter().filter(|name| name.starts_with(".writing")).count();
    count(inside) + count(&format!("{inside}/samples")) + count(&format!("{inside}/events"))
}

#[test]
fn killed_training_ends_with_the_weights_of_an_uninterrupted_run() {
    let folder = Folder::new();
    let (data, latents) = (shapes(&folder, "pictures", 8), folder.path("cache"));
    succeed(&cache(&data, "16", &latents));
    let (whole, killed) = (folder.path("whole"), folder.path("killed"));
    let settings = ["train.checkpoint_every=2", "data.val=0.1"];
    succeed(&train(&latents, &whole, "400", &settings));
    let mut waits = StreamKey::new(17, Purpose::Initialisation, 0, 0).stream();
    for kill in 0..10 {
        let args = match std::fs::exists(format!("{killed}/config.toml")).unwrap() {
            true => resume(&killed, &["train.checkpoint_every=1"]),
            false => train(&latents, &killed, "400", &settings),
        };
        let mut child = spawn(&args);
        // Every other process gets to its first checkpoint.
        let before = newest(&killed);
        if kill % 2 == 0 {
            wait_for(&mut child, || newest(&killed) > before);
            std::thread::sleep(Duration::from_secs_f64(0.05 * waits.uniform()));
        } else {
            std::thread::sleep(Duration::from_secs_f64(0.2 * waits.uniform()));
        }
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "kill {kill} came too late");
    }
    assert!(strays(&folder, "killed") <= 1, "{:?}", folder.names("killed"));
    succeed(&resume(&killed, &[]));
    assert_eq!(strays(&folder, "killed"), 0);
    let read = |run: &str, name: &str| std::fs::read(format!("{run}/{name}")).unwrap();
    assert!(read(&whole, "model.safetensors") == read(&killed, "model.safetensors"));
    assert!(tensors(&checkpoint(&whole, 400)) == tensors(&checkpoint(&killed, 400)));
    let steps = |run: &str| {
        let log = std::fs::read_to_string(format!("{run}/log.jsonl")).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let fields = |line: &str| (value(line)["step"].clone(), value(line)["val_loss"].clone());
        log.lines().map(fields).collect::<Vec<_>>()
    };
    assert_eq!(steps(&whole), steps(&killed));
}

#[test]
fn model_is_written_again_after_a_kill_behind_the_last_checkpoint() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    let more = ["data.codec=patch:4", "data.size=16"];
    succeed(&train(&data, &run, "2", &more));
    let model = std::fs::read(format!("{run}/model.safetensors")).unwrap();
    std::fs::remove_file(format!("{run}/model.safetensors")).unwrap();
    succeed(&resume(&run, &[]));
    assert!(std::fs::read(format!("{run}/model.safetensors")).unwrap() == model);
    // Without a checkpoint the run would begin anew and replace the model.
    std::fs::remove_file(checkpoint(&run, 2)).unwrap();
    let done = crate::process::run(&resume(&run, &[]));
    let message = "expected a checkpoint beside model.safetensors, got none";
    assert!(done.code == Some(1) && done.stderr.contains(message), "{}", done.stderr);
    assert!(std::fs::read(format!("{run}/model.safetensors")).unwrap() == model);
}

#[test]
fn killed_caches_end_as_uninterrupted_ones() {
    let folder = Folder::new();
    let data = crate::caching::two_shards(&folder);
    let (whole, killed) = (folder.path("whole"), folder.path("killed"));
    let started = Instant::now();
    succeed(&cache(&data, "8", &whole));
    let time = started.elapsed().as_secs_f64();
    let mut waits = StreamKey::new(23, Purpose::Initialisation, 0, 0).stream();
    for _ in 0..5 {
        let mut child = spawn(&cache(&data, "8", &killed));
        std::thread::sleep(Duration::from_secs_f64(time * waits.uniform()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeed(&cache(&data, "8", &killed));
    assert_eq!(folder.names("whole"), folder.names("killed"));
    assert!(crate::caching::contents(&folder, "whole") == crate::caching::contents(&folder, "killed"));
}

#[test]
fn signals_end_a_run_with_a_checkpoint_and_their_exit_codes() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    let settings = ["data.codec=patch:4", "data.size=16", "train.checkpoint_every=3"];
    let mut args = train(&data, &run, "1000000", &settings);
    for (signal, code) in [(libc::SIGTERM, 85), (libc::SIGUSR1, 85), (libc::SIGINT, 130), (libc::SIGHUP, 130)]
    {
        let before = newest(&run);
        let mut child = spawn(&args);
        wait_for(&mut child, || newest(&run) > before);
        send(signal, &child);
        let done = RunResult::from(child.wait_with_output().unwrap());
        assert_eq!(done.code, Some(code), "{}", done.stderr);
        let step = newest(&run);
        let line =
            format!("stopped: after step {step} of 1000000; go on with transdiff train --resume {run}");
        assert_eq!(done.stderr.lines().last(), Some(&*line), "{}", done.stderr);
        args = resume(&run, &[]);
    }
    let step = newest(&run);
    let steps = (step + 1).to_string();
    succeed(&[&args[..], &["--steps", &steps]].concat());
    assert_eq!(newest(&run), step + 1);
}

#[test]
fn second_interrupt_ends_at_once_and_the_last_checkpoint_is_intact() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    succeed(&train(&data, &run, "2", &["data.codec=patch:4", "data.size=16"]));
    // A step that takes hours.
    let mut child = interruptible();
    let args = [&resume(&run, &["train.accumulate=100000000"])[..], &["--steps", "4"]].concat();
    let mut child = child.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().starts_with("going on after step 2: ")));
    send(libc::SIGINT, &child);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "the first interrupt waits for the step");
    send(libc::SIGINT, &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(newest(&run), 2);
    succeed(&[&resume(&run, &["train.accumulate=1"])[..], &["--steps", "3"]].concat());
    assert_eq!(newest(&run), 3);
}

#[test]
fn full_disk_ends_a_run_with_the_file_named_and_the_checkpoint_before_intact() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    succeed(&train(&data, &run, "2", &["data.codec=patch:4", "data.size=16"]));
    let size = std::fs::metadata(checkpoint(&run, 2)).unwrap().len();
    let args = [&resume(&run, &[])[..], &["--steps", "4"]].concat();
    // Some shells count 512 bytes, some 1024.
    let done = run_limited(&format!("-f {}", size / 2048), &args);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let line = done.stderr.lines().last().unwrap();
    assert!(line.contains("checkpoint-00000004.safetensors: File too large"), "{line}");
    assert!(line.contains("the earlier ones are intact"), "{line}");
    assert_eq!((newest(&run), strays(&folder, "run")), (2, 0));
    succeed(&args);
    assert_eq!(newest(&run), 4);
    let out = folder.path("cache");
    let done = run_limited("-f 1", &cache(&data, "16", &out));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let line = done.stderr.lines().last().unwrap();
    assert!(line.contains(&out) && line.contains("File too large"), "{line}");
    succeed(&cache(&data, "16", &out));
}

#[test]
fn second_process_in_a_run_is_refused() {
    let folder = Folder::new();
    let (data, run) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("run"));
    let settings = ["data.codec=patch:4", "data.size=16", "train.checkpoint_every=1"];
    let mut child = spawn(&train(&data, &run, "1000000", &settings));
    wait_for(&mut child, || newest(&run) > 0);
    assert!(fail(&resume(&run, &[])).contains("another process trains in this directory"));
    // Looking is possible meanwhile.
    assert!(succeed(&["inspect", &run]).contains("training run"));
    send(libc::SIGTERM, &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(85));
}
