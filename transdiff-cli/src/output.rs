//! Writing to stdout, stderr and files.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use transdiff::checkpoint::Destination;
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

/// Checks that a file may be written to `path`, before any time is spent on its contents: `path` is missing, or a regular
/// file and `force` is given. A link to a missing file also needs `force`, because the file would be created elsewhere.
pub fn check_destination(path: &Path, force: bool) -> Result<()> {
    let destination = Destination::of(path)?;
    if force {
        return Ok(());
    }
    let name = path.display();
    if destination.exists() {
        return Err(format!("{name}: already exists; add --force to replace it").into());
    }
    if path.is_symlink() {
        let target = destination.path().display();
        return Err(
            format!("{name}: links to {target}, which does not exist; add --force to create it").into()
        );
    }
    Ok(())
}
