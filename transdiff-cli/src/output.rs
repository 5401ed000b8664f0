//! Writing to stdout and stderr.

use std::io::{ErrorKind, Write as _};

use transdiff_core::text::printable;

use crate::failure::{Failure, Result};

/// Writes to stdout.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(e) => Err(format!("stdout: {e}").into()),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to stderr. A failure to write it is ignored: there is no other place to report it.
pub fn print_to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}
