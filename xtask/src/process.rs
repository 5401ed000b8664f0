//! Running other programs.

use std::ffi::OsStr;
use std::io::{BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::Result;

/// A program to run; what it prints is shown as it comes, but for what the caller reads.
pub struct Process(Command);

/// Cargo, the one that runs this program.
pub fn cargo(args: &[&str]) -> Process {
    Process::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args)
}

/// Runs `processes` to their ends, as many at a time as there are cores; the first error of any.
pub fn run_all(processes: Vec<Process>) -> Result {
    let left = Mutex::new(processes.into_iter());
    let next = || left.lock().expect("nobody panics with it").next();
    let work = || std::iter::from_fn(next).try_for_each(|process| process.run().map_err(|e| e.to_string()));
    let cores = thread::available_parallelism()?.get();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("running does not panic")).collect()
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

    /// With `args` after the arguments so far.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.0.args(args);
        self
    }

    /// With `arg` after the arguments so far.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it to its end; an exit code other than 0 is an error.
    pub fn run(mut self) -> Result {
        let status = self.0.status().map_err(|e| format!("{}: {e}", self.name()))?;
        self.expect_success(status.success())
    }

    /// Runs it to its end and returns what it wrote to its standard output.
    pub fn stdout(self) -> Result<String> {
        let (stdout, success) = self.stdout_even_if_failed()?;
        success.map(|()| stdout)
    }

    /// As [`stdout`](Self::stdout), with what was written before a failure.
    pub fn stdout_even_if_failed(mut self) -> Result<(String, Result)> {
        let out = self.0.stderr(Stdio::inherit()).output().map_err(|e| format!("{}: {e}", self.name()))?;
        Ok((String::from_utf8(out.stdout)?, self.expect_success(out.status.success())))
    }

    /// Runs it to its end without showing what it writes, unless it fails; an exit code other than 0 is an error.
    pub fn run_quietly(mut self) -> Result {
        let out = self.0.output().map_err(|e| format!("{}: {e}", self.name()))?;
        if !out.status.success() {
            eprintln!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        }
        self.expect_success(out.status.success())
    }

    /// Runs it to its end: its exit code, and what it wrote to its standard error.
    pub fn complaint(mut self) -> Result<(Option<i32>, String)> {
        let out = self.0.output().map_err(|e| format!("{}: {e}", self.name()))?;
        Ok((out.status.code(), String::from_utf8(out.stderr)?))
    }

    /// Interrupts it, as Ctrl-C does, once it has written `mark` to its standard error; its exit code.
    pub fn interrupted_after(mut self, mark: u8) -> Result<Option<i32>> {
        let started = self.0.stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|e| format!("{}: {e}", self.name()))?;
        let mut written = BufReader::new(child.stderr.take().expect("it is piped")).bytes();
        if !written.by_ref().any(|byte| byte.is_ok_and(|b| b == mark)) {
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
