//! Writing to stdout, stderr and files.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use transdiff::checkpoint::Destination;
use transdiff_core::text::printable;

use crate::failure::{Failure, Result};

/// Place of the output of a rank other than 0, whose messages would be between those of rank 0.
enum Aside {
    /// Messages until there is a file.
    Kept(Vec<u8>),
    Log(File),
}

static ASIDE: Mutex<Option<Aside>> = Mutex::new(None);

/// Puts all that is written to stdout and stderr from now on aside, for [`log_aside`].
pub fn put_aside() {
    *ASIDE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Aside::Kept(Vec::new()));
}

/// Writes what was put aside, and all that follows, to the end of the file `path`.
pub fn log_aside(path: &Path) -> Result<()> {
    let mut aside = ASIDE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Aside::Kept(kept)) = &*aside {
        let file = File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(kept).map(|()| file));
        *aside = Some(Aside::Log(written.map_err(transdiff::Error::io(path))?));
    }
    Ok(())
}

/// Puts `text` aside; false if output goes to stdout and stderr.
fn keep_aside(text: &[u8]) -> bool {
    match &mut *ASIDE.lock().unwrap_or_else(PoisonError::into_inner) {
        None => return false,
        Some(Aside::Kept(kept)) => kept.extend_from_slice(text),
        // A failure to write it is ignored, as on stderr.
        Some(Aside::Log(file)) => drop(file.write_all(text)),
    }
    true
}

/// Writes to stdout.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    if keep_aside(text.as_ref()) {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(e) => Err(format!("stdout: {e}").into()),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to stderr. A failure to write it is ignored: there is no other place to report it.
pub fn print_to_stderr(line: &str) {
    if !keep_aside(format!("{}\n", printable(line)).as_bytes()) {
        print_to_terminal(line);
    }
}

/// Writes a line to stderr, also if output is put aside.
pub fn print_to_terminal(line: &str) {
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
