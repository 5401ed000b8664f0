//! Messages of the ranks, and processes that were started in other ways.

use std::fs;

use crate::drawing::{latents, train};
use crate::files::Folder;
use crate::job::succeed_on;
use crate::process::{RunResult, command};

#[test]
fn rank_0_alone_writes_to_the_terminal_and_the_others_to_logs() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let done = succeed_on(3, &train(&data, &out, "8", &["data.val=0.1", "train.accumulate=1"]));
    assert_eq!(done.stdout, format!("{out}/model.safetensors\n"));
    for start in ["device: cpu", "3 ranks with 1 pass of 4 samples per step each", "step 8: validation loss "]
    {
        let lines = done.stderr.lines().filter(|line| line.starts_with(start));
        assert_eq!(lines.count(), 1, "{start}: {}", done.stderr);
    }
    for rank in 1..3 {
        let log = fs::read_to_string(format!("{out}/logs/rank-{rank}.log")).unwrap();
        assert_eq!(log.matches("device: cpu").count(), 1, "{log}");
    }
    assert_eq!(folder.names("run/logs"), ["rank-1.log", "rank-2.log"]);
}

#[test]
fn processes_that_mpi_does_not_connect_are_refused() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    for (name, message) in [
        (
            "OMPI_COMM_WORLD_SIZE",
            "the launcher started 2 processes (OMPI_COMM_WORLD_SIZE), but the MPI library",
        ),
        ("WORLD_SIZE", "WORLD_SIZE: expected a single process, got one of 2; no MPI launcher has started it"),
        ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS: expected a single process, got one of 2"),
    ] {
        let started = command().args(train(&data, &out, "2", &[])).env(name, "2").output();
        let done = RunResult::from(started.unwrap());
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(
            done.stderr.lines().any(|l| l.starts_with("error: ") && l.contains(message)),
            "{}",
            done.stderr
        );
        assert!(!fs::exists(&out).unwrap());
    }
}
