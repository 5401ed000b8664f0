//! Interrupts by the user: Ctrl-C, and requests to terminate.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use transdiff::CancellationToken;
use transdiff_terminal::set_on_interrupt;

use crate::failure::Result;

/// Returns a token that the first interrupt cancels. The second one ends the process.
pub fn cancellation_token() -> Result<CancellationToken> {
    let interrupted = Arc::new(AtomicBool::new(false));
    set_on_interrupt(&interrupted).map_err(|e| format!("cannot handle Ctrl-C: {e}"))?;
    Ok(CancellationToken::from(interrupted))
}
