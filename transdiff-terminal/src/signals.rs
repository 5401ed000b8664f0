//! Signals that end a program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Exit code of a program ended by Ctrl-C: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

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
        if interrupted.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    };
    ctrlc::set_handler(handler).map_err(io::Error::other)
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
