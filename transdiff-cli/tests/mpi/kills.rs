//! Ranks that are killed, or hang: the job ends, and the run goes on from its last checkpoint.

use std::time::Duration;

use transdiff::rng::{Purpose, StreamKey};

use crate::drawing::{resume, train};
use crate::files::Folder;
use crate::job::{Running, assert_gone, assert_same_weights, digits, job, message, send_to_rank, succeed_on};
use crate::runs::{checkpoint, copy, logged, newest, tensors};

const RANKS: usize = 3;
const STEPS: u64 = 500;
/// Longest time between a checkpoint and a kill, in seconds.
const LONGEST_WAIT: f64 = 0.1;

#[test]
fn killed_rank_ends_the_job_and_the_run_goes_on_bitwise() {
    let folder = Folder::new();
    let (data, whole, killed) = (digits(&folder), folder.path("whole"), folder.path("killed"));
    let steps = STEPS.to_string();
    let settings = ["train.dropout=0.1", "train.accumulate=2", "train.report_every=50", "data.val=0.02"];
    succeed_on(RANKS, &train(&data, &whole, &steps, &settings));
    let mut draws = StreamKey::new(29, Purpose::Initialisation, 0, 0).stream();
    for kill in 0..10 {
        // While checkpoints are written, and between them.
        let every = ["train.checkpoint_every=1", "train.checkpoint_every=9"][kill % 2];
        let args = match kill {
            0 => train(&data, &killed, &steps, &[&settings[..], &[every]].concat()),
            _ => resume(&killed, &[every]),
        };
        let before = newest(&killed);
        let mut running = Running::start(job(RANKS, &args));
        running.wait_for(|| newest(&killed) > before);
        std::thread::sleep(Duration::from_secs_f64(LONGEST_WAIT * draws.uniform()));
        let rank = (draws.uniform() * RANKS as f64) as usize;
        send_to_rank(libc::SIGKILL, &killed, rank);
        let done = running.ended();
        assert_ne!(done.code, Some(0), "kill {kill}: {}", done.stderr);
        assert_gone(&killed);
        let step = newest(&killed);
        assert!(step > before && step < STEPS, "kill {kill}: checkpoint after step {step}");
        assert!(!tensors(&checkpoint(&killed, step)).is_empty());
    }
    let fewer = folder.path("fewer");
    copy(&killed, &fewer);
    succeed_on(RANKS, &resume(&killed, &[]));
    assert_same_weights(&whole, &killed, STEPS);
    for key in ["step", "samples", "val_loss"] {
        assert_eq!(logged(&whole, key), logged(&killed, key), "{key}");
    }
    // Sums of another order: not bitwise.
    succeed_on(2, &resume(&fewer, &[]));
    for key in ["step", "samples"] {
        assert_eq!(logged(&whole, key), logged(&fewer, key), "{key}");
    }
    let [expected, got] = [&whole, &fewer].map(|run| tensors(&checkpoint(run, STEPS)));
    assert!(expected.keys().eq(got.keys()));
}

#[test]
fn stopped_rank_ends_the_job_after_the_time_out() {
    let folder = Folder::new();
    let (data, run) = (digits(&folder), folder.path("run"));
    let args = train(&data, &run, "1000000", &["train.checkpoint_every=1", "train.accumulate=1"]);
    let mut running = Running::start(job(RANKS, &[&args[..], &["--timeout", "5"]].concat()));
    running.wait_for(|| newest(&run) > 0);
    send_to_rank(libc::SIGSTOP, &run, 1);
    let done = running.ended();
    assert_ne!(done.code, Some(0), "{}", done.stderr);
    let reason = "no answer from all of 3 ranks within 5 s: a rank has ended, hangs or takes longer";
    assert!(
        done.stderr.lines().any(|l| l.starts_with("error: rank ") && l.contains(reason)),
        "{}",
        done.stderr
    );
    assert_gone(&run);
    let steps = (newest(&run) + 1).to_string();
    succeed_on(RANKS, &[&resume(&run, &[])[..], &["--steps", &steps]].concat());
}

#[test]
fn rank_that_cannot_begin_ends_the_job() {
    let folder = Folder::new();
    let (data, run) = (digits(&folder), folder.path("run"));
    let (good, wrong) = (train(&data, &run, "2", &[]), ["train", "--no-such-flag"]);
    let parts = [(1, crate::job::PROGRAM, &good[..]), (1, crate::job::PROGRAM, &wrong[..])];
    let done = Running::start(crate::job::launched_by("mpirun", &parts)).ended();
    assert!(done.code != Some(0) && done.stderr.contains("--no-such-flag"), "{}", done.stderr);
    assert!(!std::fs::exists(&run).unwrap());
    let line = message(&Running::start(job(2, &train("nowhere", &run, "2", &[]))).ended());
    assert!(line.contains("rank 0") && line.contains("nowhere"), "{line}");
}
