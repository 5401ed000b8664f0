//! PyTorch checkpoints: a zip archive of a pickle and of the tensors' storages.
//!
//! A pickle is a program that builds objects. Python's reader imports and calls what it names; this one does not: it
//! builds tables ([`object`]), knows a few constructors by name ([`known`]), and keeps anything else as a name.

mod known;
mod machine;
mod object;
mod outline;
mod zip;

use std::path::Path;

use super::budget::Budget;
use super::source::Source;
use super::{Contents, read_error};
use crate::{Error, Result};

/// The entry with the pickle, under the archive's folder.
const PICKLE: &str = "data.pkl";
/// Bytes of the pickle: that of the largest published checkpoint has 1 MiB.
const MAX_PICKLE: u64 = 16 << 20;

/// Reads what is in a checkpoint, but for the values of its tensors.
pub(super) fn read(source: &Source, path: &Path) -> Result<Contents> {
    let archive = zip::read(source, path)?;
    let folder = folder(&archive, path)?;
    check_byte_order(&archive, folder, source, path)?;
    let pickle = &archive[&format!("{folder}{PICKLE}")];
    let len = pickle.end - pickle.start;
    if len > MAX_PICKLE {
        return Err(Error::format(
            path,
            format!("{PICKLE} has {len} bytes, at most {MAX_PICKLE} are allowed"),
        ));
    }
    let text = source.slice(pickle.start, len).map_err(read_error(path, PICKLE.to_owned(), len))?;
    let fault = |message| Error::format(path, format!("{PICKLE}: {message}"));
    let (objects, root) = machine::run(&text, Budget::of_file(source.len())).map_err(fault)?;
    outline::Outline::new(&objects, &archive, folder, path).contents(root)
}

/// The folder of the archive, with its slash.
fn folder<'a>(archive: &'a zip::Archive, path: &Path) -> Result<&'a str> {
    let is_root = |folder: &&str| folder.ends_with('/') && folder.matches('/').count() == 1;
    let mut folders = archive.keys().filter_map(|name| name.strip_suffix(PICKLE)).filter(is_root);
    match (folders.next(), folders.next()) {
        (Some(folder), None) if archive.contains_key(&format!("{folder}constants.pkl")) => {
            let message = "a TorchScript program, not a checkpoint: save the state_dict() of the module with torch.save";
            Err(Error::format(path, message))
        }
        (Some(folder), None) => Ok(folder),
        (None, _) => {
            Err(Error::format(path, format!("a zip archive without {PICKLE}: not written by torch.save")))
        }
        (Some(_), Some(_)) => Err(Error::format(path, format!("a zip archive with two {PICKLE}"))),
    }
}

fn check_byte_order(archive: &zip::Archive, folder: &str, source: &Source, path: &Path) -> Result<()> {
    // Versions of PyTorch that wrote no such entry wrote the machine's order, and ran on little-endian ones.
    let Some(entry) = archive.get(&format!("{folder}byteorder")) else { return Ok(()) };
    let len = (entry.end - entry.start).min(16);
    let order = source.slice(entry.start, len).map_err(Error::io(path))?;
    if *order == *b"little" {
        return Ok(());
    }
    let got = String::from_utf8_lossy(&order);
    Err(Error::format(
        path,
        format!("byte order {got}: only little is read; save it again on a little-endian machine"),
    ))
}
