//! Helpers that run the command.

use std::ffi::OsStr;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// Time after which a test that waits has failed.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// Runs the command under the limits that the shell's `ulimit` sets.
#[cfg(unix)]
pub fn run_limited(ulimit: &str, args: &[&str]) -> RunResult {
    let script = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
    let program = env!("CARGO_BIN_EXE_transdiff");
    Command::new("sh").args(["-c", &script, program]).args(args).output().expect("a shell").into()
}

/// Sends a signal to a process.
#[cfg(unix)]
pub fn send(signal: libc::c_int, to: &Child) {
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(to.id() as libc::pid_t, signal) }, 0);
}

/// Waits until `ready` holds, which it must before `child` ends.
pub fn wait_for(child: &mut Child, ready: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < limit && child.try_wait().unwrap().is_none(), "the command ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the command without arguments, with the signals that interrupt it in their default state, whatever the tests
/// were started with: `nohup` and shells start programs with some of them ignored.
#[cfg(unix)]
pub fn interruptible() -> Command {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the default action runs no code of the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    in_child(command(), reset)
}

/// Returns the command without arguments, with the given signals ignored.
#[cfg(unix)]
pub fn ignoring(signals: &[libc::c_int]) -> Command {
    let signals = signals.to_vec();
    let ignore = move || {
        for &signal in &signals {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    in_child(interruptible(), ignore)
}

/// Returns the command without arguments, with its limit of `resource` lowered to `limit`.
#[cfg(unix)]
pub fn limited(resource: Resource, limit: u64) -> Command {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the limit outlives the call.
    let set = move || match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    in_child(command(), set)
}

#[cfg(all(unix, target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(all(unix, not(target_env = "gnu")))]
type Resource = libc::c_int;

#[cfg(unix)]
fn in_child(
    mut command: Command,
    prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) -> Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: `prepare` makes system calls that are allowed between fork and exec.
    unsafe { command.pre_exec(prepare) };
    command
}
