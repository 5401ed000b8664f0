//! Signals that end a program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a program ended by Ctrl-C: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Exit code of a program that was told to end and can go on later: a batch system starts it again.
pub const REQUEUE: u8 = 85;

/// Sets `interrupted` when the user interrupts the program: on Unix by SIGINT (Ctrl-C), SIGTERM or SIGHUP. A second
/// interrupt ends the process at once, with the exit code [`INTERRUPTED`].
///
/// A signal that is ignored already stays ignored: `nohup` ignores SIGHUP for the program that it starts, and shells
/// ignore SIGINT for programs in the background.
///
/// # Errors
/// Those of the system for installing a handler.
#[cfg(unix)]
pub fn set_on_interrupt(interrupted: &Arc<AtomicBool>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;

    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if !is_ignored(signal)? {
            // Handlers run in this order: the first one acts if an earlier signal has set the flag.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(interrupted))?;
            flag::register(signal, Arc::clone(interrupted))?;
        }
    }
    Ok(())
}

/// Sets `interrupted` when the user interrupts the program with Ctrl-C. A second interrupt ends the process at once, with
/// the exit code [`INTERRUPTED`].
///
/// # Errors
/// Those of the system for installing a handler.
#[cfg(not(unix))]
pub fn set_on_interrupt(interrupted: &Arc<AtomicBool>) -> io::Result<()> {
    let interrupted = Arc::clone(interrupted);
    let handler = move || {
        if interrupted.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    };
    ctrlc::set_handler(handler).map_err(io::Error::other)
}

/// Reason for a program to end before its work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The user wants it to end: Ctrl-C (SIGINT), or a terminal that is closed (SIGHUP).
    Interrupt,
    /// The system wants it to end and will start it again: SIGTERM, or SIGUSR1, which batch systems send before the time
    /// limit.
    Requeue,
}

impl StopReason {
    /// Exit code of the program: [`INTERRUPTED`] or [`REQUEUE`].
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => INTERRUPTED,
            Self::Requeue => REQUEUE,
        }
    }
}

/// Signals that end a program after what it is doing, with its state saved.
///
/// A second Ctrl-C ends the process at once, with the exit code [`INTERRUPTED`]. Other signals may come several times: batch
/// systems send SIGUSR1 and, some time later, SIGTERM. A signal that is ignored already stays ignored.
#[derive(Clone, Debug)]
pub struct StopSignals {
    interrupt: Arc<AtomicBool>,
    requeue: Arc<AtomicBool>,
    either: Arc<AtomicBool>,
}

impl StopSignals {
    /// Installs handlers. On systems other than Unix, Ctrl-C is the only signal.
    ///
    /// # Errors
    /// Those of the system for installing a handler.
    pub fn install() -> io::Result<Self> {
        let new = Arc::<AtomicBool>::default;
        let signals = Self { interrupt: new(), requeue: new(), either: new() };
        signals.register()?;
        Ok(signals)
    }

    #[cfg(unix)]
    fn register(&self) -> io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        use signal_hook::flag;

        if !is_ignored(SIGINT)? {
            // Before the flag is set by the same signal.
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), Arc::clone(&self.interrupt))?;
        }
        let reasons = [
            (SIGINT, &self.interrupt),
            (SIGHUP, &self.interrupt),
            (SIGTERM, &self.requeue),
            (SIGUSR1, &self.requeue),
        ];
        for (signal, reason) in reasons {
            if !is_ignored(signal)? {
                flag::register(signal, Arc::clone(reason))?;
                flag::register(signal, Arc::clone(&self.either))?;
            }
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn register(&self) -> io::Result<()> {
        let signals = self.clone();
        let handler = move || {
            if signals.interrupt.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED.into());
            }
            signals.either.store(true, Ordering::SeqCst);
        };
        ctrlc::set_handler(handler).map_err(io::Error::other)
    }

    /// Reason to stop, once there has been a signal. The user's wish comes before the system's.
    pub fn reason(&self) -> Option<StopReason> {
        if self.interrupt.load(Ordering::SeqCst) {
            return Some(StopReason::Interrupt);
        }
        self.requeue.load(Ordering::SeqCst).then_some(StopReason::Requeue)
    }

    /// Flag that any of the signals sets, for what can be cancelled.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.either
    }
}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one, to memory of its type.
    match unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } {
        // SAFETY: the call succeeded and has written it.
        0 => Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a write beyond the limit on file sizes (`ulimit -f`) fail as any other, instead of ending the process with SIGXFSZ.
pub fn fail_writes_beyond_size_limit() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
