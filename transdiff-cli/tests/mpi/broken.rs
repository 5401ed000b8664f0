//! Broken pictures, values that are not finite and full disks, which one rank meets and all end with.

use std::fs;

use crate::drawing::{latents, resume, tiles, train};
use crate::files::Folder;
use crate::job::{Running, assert_same, ended, fail_with, job, message, ranks, spawn, succeed_on};
use crate::process::run;
use crate::runs::{checkpoint, copy, newest, tensors};

/// Settings of a run on pictures, with four samples per step on each rank.
const PICTURES: [&str; 3] = ["data.codec=patch:4", "data.size=16", "train.accumulate=1"];

#[test]
fn broken_picture_of_a_rank_is_named_and_the_state_is_saved() {
    let folder = Folder::new();
    let (data, whole, out) =
        (tiles(&folder, "pictures", &["a", "b"], 20), folder.path("whole"), folder.path("run"));
    let settings =
        [&PICTURES[..], &["train.warmup=0", "train.decay=constant", "train.report_every=1"]].concat();
    // An epoch has 5 steps.
    succeed_on(2, &train(&data, &out, "5", &settings));
    copy(&out, &whole);
    let more = |run| [&resume(run, &[])[..], &["--steps", "10"]].concat();
    succeed_on(2, &more(&whole));
    let picture = format!("{data}/b/7.png");
    let bytes = fs::read(&picture).unwrap();
    fs::write(&picture, &bytes[..bytes.len() / 2]).unwrap();
    let done = ended(spawn(job(2, &more(&out))));
    let (line, step) = (message(&done), newest(&out));
    assert!(line.starts_with("error: rank ") && line.contains(&picture), "{line}");
    assert!(line.contains("data.on_broken = \"skip\" goes on without broken pictures"), "{line}");
    assert!(line.ends_with(&format!("the state after step {step} is saved")), "{line}");
    fs::write(&picture, bytes).unwrap();
    succeed_on(2, &more(&out));
    assert_same(&whole, &out, 10);
}

#[test]
fn broken_pictures_are_skipped_and_reported_by_the_rank_that_reads_them() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["a", "b"], 20), folder.path("run"));
    for number in 0..8 {
        fs::write(format!("{data}/b/{number}.png"), "no picture").unwrap();
    }
    let done = succeed_on(2, &train(&data, &out, "5", &[&PICTURES[..], &["data.on_broken=skip"]].concat()));
    let log = fs::read_to_string(format!("{out}/logs/rank-1.log")).unwrap();
    for text in [&done.stderr, &log] {
        let has = |line: &str| line.contains("skipped: ") && line.contains(&format!("{data}/b/"));
        assert!(text.lines().any(has), "{text}");
    }
}

#[test]
fn broken_held_out_picture_of_a_rank_ends_all() {
    let folder = Folder::new();
    let (data, val) = (tiles(&folder, "pictures", &["a", "b"], 20), tiles(&folder, "val", &["a", "b"], 4));
    let (out, picture) = (folder.path("run"), format!("{val}/b/1.png"));
    fs::write(&picture, "no picture").unwrap();
    let held_out = format!("data.val={val}");
    // The first batch of four is that of rank 0.
    let line = fail_with(job(2, &train(&data, &out, "5", &[&PICTURES[..], &[&held_out]].concat())));
    assert!(line.starts_with(&format!("error: rank 1: {picture}: ")), "{line}");
}

#[test]
fn values_that_are_not_finite_end_all_ranks_as_they_end_one() {
    let folder = Folder::new();
    let (data, [alone, out]) =
        (latents(&folder, "cache", |i| i == 5), ["alone", "run"].map(|name| folder.path(name)));
    let settings = |passes| ["train.checkpoint_every=1", "train.report_every=1", passes];
    let done = run(&train(&data, &alone, "20", &settings("train.accumulate=2")));
    let expected = message(&done).replace(&alone, &out);
    let line = fail_with(job(2, &train(&data, &out, "20", &settings("train.accumulate=1"))));
    assert!(line.starts_with("error: step ") && line.contains("the last checkpoint is "), "{line}");
    assert_eq!(line, expected);
    assert_eq!(newest(&alone), newest(&out));
    let step = newest(&out);
    assert_same(&alone, &out, step);
}

#[test]
fn rollback_skips_the_samples_of_all_ranks() {
    let folder = Folder::new();
    let (data, [alone, out]) =
        (latents(&folder, "cache", |i| i == 5), ["alone", "run"].map(|name| folder.path(name)));
    let settings =
        |passes| ["train.on_nonfinite=rollback", "train.checkpoint_every=2", "train.report_every=1", passes];
    assert_eq!(run(&train(&data, &alone, "20", &settings("train.accumulate=2"))).code, Some(0));
    let args = [&train(&data, &out, "20", &settings("train.accumulate=1"))[..], &["--shard", "optimizer"]];
    let done = succeed_on(2, &args.concat());
    assert!(done.stderr.contains("the step's samples are skipped"), "{}", done.stderr);
    assert_same(&alone, &out, 20);
    let out = folder.path("never");
    let line = fail_with(job(
        2,
        &train(&data, &out, "20", &["train.on_nonfinite=rollback", "train.lr=1e30", "train.warmup=0"]),
    ));
    assert!(line.contains("10 rollbacks did not help; there is no checkpoint yet"), "{line}");
}

#[test]
fn full_disk_of_rank_0_ends_all_and_the_checkpoint_before_is_intact() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let settings = ["train.checkpoint_every=1", "train.report_every=1000"];
    let mut running = Running::start(job(2, &train(&data, &out, "1000000", &settings)));
    running.wait_for(|| newest(&out) > 0);
    let size = fs::metadata(checkpoint(&out, newest(&out))).unwrap().len();
    limit_files(ranks(&out)[&0], size / 2);
    let line = message(&running.ended());
    assert!(line.starts_with("error: rank 0 of 2: the checkpoint was not written, "), "{line}");
    assert!(line.contains("the earlier ones are intact") && line.contains("File too large"), "{line}");
    let step = newest(&out);
    assert!(step > 0 && !tensors(&checkpoint(&out, step)).is_empty());
    succeed_on(2, &[&resume(&out, &[])[..], &["--steps", &(step + 2).to_string()]].concat());
}

/// Lets a process write no more than `bytes` to a file.
fn limit_files(process: libc::pid_t, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit outlives the call, and the old one is not asked for.
    let code = unsafe { libc::prlimit(process, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}
