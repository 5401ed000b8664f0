//! Helpers that run the command.

use std::ffi::OsStr;
use std::process::{Command, Output};

/// Returns the command without arguments.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_transdiff"))
}

/// Exit code and output of a finished run.
pub struct RunResult {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for RunResult {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the command writes UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the command to completion.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> RunResult {
    command().args(args).output().expect("the command starts").into()
}

/// Runs the command, checks that it succeeds, and returns its stdout.
pub fn succeed<S: AsRef<OsStr>>(args: &[S]) -> String {
    let done = run(args);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout
}

/// Runs the command, checks that it fails with exit code 1 and one line on stderr, and returns the line.
pub fn fail<S: AsRef<OsStr>>(args: &[S]) -> String {
    let done = run(args);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{}", done.stderr);
    let line = done.stderr.strip_suffix('\n').expect("a whole line");
    assert!(line.starts_with("error: ") && !line.contains('\n'), "{line:?}");
    line.to_owned()
}
