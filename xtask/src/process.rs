//! Child processes.

use std::ffi::OsStr;
use std::io::{BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::Result;

/// Child process to run; its output is inherited unless it is captured.
pub struct Process(Command);

/// The Cargo that runs this program.
pub fn cargo(args: &[&str]) -> Process {
    Process::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args)
}

/// Runs `processes` in parallel, at most one per core; returns the first error.
pub fn run_all(processes: Vec<Process>) -> Result {
    in_parallel(processes, Process::run)
}

/// Calls `work` for the items in order, in parallel, at most one call per core; returns the first error.
pub fn in_parallel<T: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> Result + Sync,
) -> Result {
    let left = Mutex::new(items.into_iter());
    let next = || left.lock().expect("the lock is not poisoned").next();
    let work = || std::iter::from_fn(next).try_for_each(|item| work(item).map_err(|e| e.to_string()));
    let cores = thread::available_parallelism()?.get();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
    });
    Ok(outcomes.into_iter().collect::<std::result::Result<(), String>>()?)
}

impl Process {
    /// `program` without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self(command)
    }

    /// Appends `args`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.0.args(args);
        self
    }

    /// Appends `arg`.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs the process; an exit code other than 0 is an error.
    pub fn run(mut self) -> Result {
        let status = self.0.status().map_err(|e| format!("{}: {e}", self.name()))?;
        self.expect_success(status.success())
    }

    /// Runs the process and returns its standard output; an exit code other than 0 is an error.
    pub fn stdout(self) -> Result<String> {
        let (stdout, success) = self.stdout_and_result()?;
        success.map(|()| stdout)
    }

    /// Runs the process and returns its standard output together with its success.
    pub fn stdout_and_result(mut self) -> Result<(String, Result)> {
        let out = self.0.stderr(Stdio::inherit()).output().map_err(|e| format!("{}: {e}", self.name()))?;
        Ok((String::from_utf8(out.stdout)?, self.expect_success(out.status.success())))
    }

    /// Runs the process and shows its output only if it fails; an exit code other than 0 is an error.
    pub fn run_quietly(mut self) -> Result {
        let out = self.0.output().map_err(|e| format!("{}: {e}", self.name()))?;
        if !out.status.success() {
            eprintln!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        }
        self.expect_success(out.status.success())
    }

    /// Runs the process and returns its exit code and standard error.
    pub fn code_and_stderr(mut self) -> Result<(Option<i32>, String)> {
        let out = self.0.output().map_err(|e| format!("{}: {e}", self.name()))?;
        Ok((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
    }

    /// Runs the process, sends SIGINT once it has written `byte` to its standard error, and returns its exit code.
    pub fn interrupt_after(self, byte: u8) -> Result<Option<i32>> {
        // A process that was started in the background ignores SIGINT, and so do its children.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(self.0.get_program()).args(self.0.get_args());
        command.envs(self.0.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let started = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|e| format!("{}: {e}", self.name()))?;
        let mut written = BufReader::new(child.stderr.take().expect("it is piped")).bytes();
        if !written.by_ref().any(|b| b.is_ok_and(|b| b == byte)) {
            return Err(format!("{} ended before it could be interrupted", self.name()).into());
        }
        Self::new("kill").args(&["-INT", &child.id().to_string()]).run()?;
        written.for_each(drop);
        Ok(child.wait()?.code())
    }

    fn expect_success(&self, success: bool) -> Result {
        let line = || self.0.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        if success { Ok(()) } else { Err(format!("failed: {} {}", self.name(), line()).into()) }
    }

    fn name(&self) -> String {
        self.0.get_program().to_string_lossy().into_owned()
    }
}
