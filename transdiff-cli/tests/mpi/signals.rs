//! Signals: all ranks end after the same step, with a checkpoint, and the run goes on bitwise.

use crate::drawing::{resume, train};
use crate::files::Folder;
use crate::job::{PROGRAM, Running, assert_gone, assert_same, digits, launched_by, send_to_rank, succeed_on};
use crate::process::succeed;
use crate::runs::newest;

/// The script that passes signals on.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/launch.sh");

#[test]
fn signals_end_all_ranks_with_a_checkpoint_and_the_run_goes_on_bitwise() {
    let folder = Folder::new();
    let (data, whole, out) = (digits(&folder), folder.path("whole"), folder.path("run"));
    let settings = [
        "train.warmup=0",
        "train.decay=constant",
        "train.dropout=0.1",
        "train.checkpoint_every=3",
        "train.report_every=1",
    ];
    let mut args = train(&data, &out, "1000000", &[&settings[..], &["train.accumulate=2"]].concat());
    // A system may also signal one rank alone. mpirun passes SIGTERM on, and kills the ranks soon after: perhaps too soon.
    for (launcher, signal, rank, code) in [
        ("mpirun", libc::SIGUSR1, None, Some(85)),
        (SCRIPT, libc::SIGTERM, None, Some(85)),
        ("mpirun", libc::SIGTERM, Some(1), Some(85)),
        ("mpirun", libc::SIGTERM, None, None),
    ] {
        let before = newest(&out);
        let mut running = Running::start(launched_by(launcher, &[(2, PROGRAM, &args)]));
        running.wait_for(|| newest(&out) > before);
        match rank {
            Some(rank) => send_to_rank(signal, &out, rank),
            None => running.send(signal),
        }
        let done = running.ended();
        assert_gone(&out);
        let step = newest(&out);
        let line =
            format!("stopped: after step {step} of 1000000; go on with transdiff train --resume {out}");
        match code {
            None => assert_ne!(done.code, Some(0), "{}", done.stderr),
            Some(_) => {
                assert_eq!(done.code, code, "{}", done.stderr);
                assert_eq!(done.stderr.matches(&line).count(), 1, "{}", done.stderr);
            }
        }
        args = resume(&out, &[]);
    }
    let step = newest(&out) + 3;
    succeed_on(2, &[&args[..], &["--steps", &step.to_string()]].concat());
    let settings = [&settings[..], &["train.accumulate=4"]].concat();
    succeed(&train(&data, &whole, &step.to_string(), &settings));
    assert_same(&whole, &out, step);
}
