//! Jobs of several ranks, and their data.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cache::write_cache;
use crate::digits::Digits;
use crate::files::Folder;
use crate::open_mpi::OPEN_MPI;
use crate::process::{RunResult, send};
use crate::runs::{checkpoint, logged, tensors};

/// Seconds after which `mpirun` ends a job, which then hangs.
const JOB_LIMIT: u64 = 60;
/// Time for the system to remove processes that have been killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The command under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_transdiff");

/// Part of a job: a number of ranks with a program and its arguments.
pub type Part<'a> = (usize, &'a str, &'a [&'a str]);

/// A job of `launcher`, which takes the arguments of `mpirun`.
pub fn launched_by(launcher: &str, parts: &[Part<'_>]) -> Command {
    let mut command = Command::new(launcher);
    for (place, (ranks, program, args)) in parts.iter().enumerate() {
        if place > 0 {
            command.arg(":");
        }
        command.args(["-np", &ranks.to_string(), program]).args(*args);
    }
    command.env("MPIEXEC_TIMEOUT", JOB_LIMIT.to_string()).envs(OPEN_MPI);
    command
}

/// A job of the command on `ranks` ranks.
pub fn job(ranks: usize, args: &[&str]) -> Command {
    launched_by("mpirun", &[(ranks, PROGRAM, args)])
}

/// Starts a job.
pub fn spawn(mut job: Command) -> Child {
    job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("there is an mpirun")
}

/// Waits for the end of a job, which must come by itself.
pub fn ended(job: Child) -> RunResult {
    let done = RunResult::from(job.wait_with_output().unwrap());
    assert!(!done.stderr.contains("limit for job execution"), "the job hangs: {}", done.stderr);
    done
}

/// Runs a job that must succeed.
pub fn succeed_on(ranks: usize, args: &[&str]) -> RunResult {
    let done = ended(spawn(job(ranks, args)));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// Runs a job that must fail, and returns its message: the only line of stderr that begins with "error: ".
pub fn fail_with(job: Command) -> String {
    message(&ended(spawn(job)))
}

/// Message of a job that has failed.
pub fn message(done: &RunResult) -> String {
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let errors: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", done.stderr);
    errors[0].to_owned()
}

/// Ids of the processes of a job that have `run` among their arguments, by rank.
pub fn ranks(run: &str) -> BTreeMap<usize, libc::pid_t> {
    let processes = fs::read_dir("/proc").unwrap();
    let rank = |name: &str| -> Option<(usize, libc::pid_t)> {
        let process = name.parse().ok()?;
        let read = |file: &str| fs::read(format!("/proc/{name}/{file}")).ok();
        let has_run = read("cmdline")?.split(|&byte| byte == 0).any(|argument| argument == run.as_bytes());
        let environment = String::from_utf8_lossy(&read("environ")?).into_owned();
        let rank = environment.split('\0').find_map(|entry| entry.strip_prefix("OMPI_COMM_WORLD_RANK="))?;
        has_run.then_some((rank.parse().ok()?, process))
    };
    processes.filter_map(|entry| rank(entry.ok()?.file_name().to_str()?)).collect()
}

/// Checks that no rank of the job of `run` is left.
pub fn assert_gone(run: &str) {
    let limit = Instant::now() + PATIENCE;
    while !ranks(run).is_empty() {
        assert!(Instant::now() < limit, "processes are left: {:?}", ranks(run));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a rank of the job of `run`.
pub fn send_to_rank(signal: libc::c_int, run: &str, rank: usize) {
    let process = ranks(run)[&rank];
    // SAFETY: signals a process of a job that has not ended.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

/// A job that is killed where a test fails before it has ended.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(job: Command) -> Self {
        Self(Some(spawn(job)))
    }

    /// Waits until `ready` holds, which it must before the job ends.
    pub fn wait_for(&mut self, ready: impl Fn() -> bool) {
        let child = self.0.as_mut().expect("it has not ended");
        while !ready() {
            if child.try_wait().unwrap().is_some() {
                panic!("the job ended too early: {}", ended(self.0.take().expect("it has ended")).stderr);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal to the launcher.
    pub fn send(&self, signal: libc::c_int) {
        send(signal, self.0.as_ref().expect("it has not ended"));
    }

    /// As [`ended`].
    pub fn ended(mut self) -> RunResult {
        ended(self.0.take().expect("it has not ended"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take()
            && let Ok(None) = child.try_wait()
        {
            // mpirun ends its ranks.
            send(libc::SIGTERM, &child);
            let _ = child.wait();
        }
    }
}

/// The digits of the quickstart as a cache.
pub fn digits(folder: &Folder) -> String {
    let path = folder.path("digits");
    write_cache(Path::new(&path), &Digits::load().unwrap().0).unwrap();
    path
}

/// Checks that two runs of `steps` steps have bitwise the same state, model and reports.
pub fn assert_same(run: &str, other: &str, steps: u64) {
    assert_same_weights(run, other, steps);
    for key in ["step", "samples", "loss", "val_loss", "lr", "grad_norm"] {
        assert_eq!(logged(run, key), logged(other, key), "{key} of {run} and {other}");
    }
}

/// Checks that two runs of `steps` steps have bitwise the same state and model.
pub fn assert_same_weights(run: &str, other: &str, steps: u64) {
    let model = |run: &str| fs::read(format!("{run}/model.safetensors")).unwrap();
    assert!(model(run) == model(other), "models of {run} and {other}");
    let state = |run: &str| tensors(&checkpoint(run, steps));
    assert!(state(run) == state(other), "checkpoints of {run} and {other}");
}
