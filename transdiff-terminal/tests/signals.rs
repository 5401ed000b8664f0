//! Signals that end a program with its state saved: their reasons and exit codes, in a process of its own per case.

#![cfg(unix)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use transdiff_terminal::{StopReason, StopSignals};

/// Environment variable of the process that waits for signals: the number of polls after the first.
const POLLS: &str = "TRANSDIFF_TEST_POLLS";

/// The program: says when it is ready and when there is a reason to stop, and ends with the code of the reason after as many
/// polls as it is told to. Without the variable, as a test of its own, it does nothing.
#[test]
fn waits_for_signals() {
    let Ok(polls) = std::env::var(POLLS) else { return };
    let signals = StopSignals::install().unwrap();
    assert!(signals.reason().is_none());
    println!("\nready");
    while signals.reason().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("\nstopping");
    (0..polls.parse().unwrap()).for_each(|_| std::thread::sleep(Duration::from_millis(2)));
    assert!(signals.flag().load(std::sync::atomic::Ordering::SeqCst));
    std::process::exit(signals.reason().map_or(1, StopReason::exit_code).into());
}

/// Starts the program with the signals in `ignored` ignored, and the others in their default state.
fn start(polls: u32, ignored: &[libc::c_int]) -> (Child, BufReader<ChildStdout>) {
    let ignored = ignored.to_vec();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "waits_for_signals", "--nocapture"]);
    command.env(POLLS, polls.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let prepare = move || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1] {
            let action = if ignored.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
            // SAFETY: neither action runs code of the process.
            unsafe { libc::signal(signal, action) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls that are allowed between fork and exec.
    let mut running = unsafe { command.pre_exec(prepare) }.spawn().unwrap();
    let output = BufReader::new(running.stdout.take().unwrap());
    (running, output)
}

fn wait_for(line: &str, output: &mut BufReader<ChildStdout>) {
    assert!(output.lines().map(Result::unwrap).any(|given| given == line), "no line {line}");
}

fn send(signal: libc::c_int, to: &Child) {
    // SAFETY: signals a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(to.id() as libc::pid_t, signal) }, 0);
}

/// Exit code after the first signal, and after the second one while the program ends.
fn exit_code(first: libc::c_int, second: Option<libc::c_int>, polls: u32) -> Option<i32> {
    let (mut running, mut output) = start(polls, &[]);
    wait_for("ready", &mut output);
    send(first, &running);
    if let Some(second) = second {
        wait_for("stopping", &mut output);
        send(second, &running);
    }
    running.wait().unwrap().code()
}

#[test]
fn exit_code_is_that_of_the_reason() {
    use libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let codes = [SIGINT, SIGHUP, SIGTERM, SIGUSR1].map(|signal| exit_code(signal, None, 0));
    assert_eq!(codes, [Some(130), Some(130), Some(85), Some(85)]);
}

#[test]
fn repeated_requests_of_the_system_let_the_program_end() {
    assert_eq!(exit_code(libc::SIGUSR1, Some(libc::SIGTERM), 50), Some(85));
    assert_eq!(exit_code(libc::SIGTERM, Some(libc::SIGTERM), 50), Some(85));
    assert_eq!(exit_code(libc::SIGTERM, Some(libc::SIGINT), 50), Some(130));
}

#[test]
fn second_interrupt_ends_the_process_at_once() {
    // Without it the program would go on for hours.
    assert_eq!(exit_code(libc::SIGINT, Some(libc::SIGINT), u32::MAX), Some(130));
}

#[test]
fn ignored_signals_stay_ignored() {
    let (mut running, mut output) = start(0, &[libc::SIGHUP, libc::SIGINT]);
    wait_for("ready", &mut output);
    [libc::SIGHUP, libc::SIGINT, libc::SIGINT, libc::SIGTERM]
        .iter()
        .for_each(|&signal| send(signal, &running));
    assert_eq!(running.wait().unwrap().code(), Some(85));
}
