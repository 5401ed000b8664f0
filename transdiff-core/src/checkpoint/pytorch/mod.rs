//! PyTorch checkpoints: a zip archive of a pickle and of the tensors' storages.
//!
//! A pickle is a program that builds objects. Python's unpickler imports and calls whatever the program names. This one
//! does not: it builds a table of values ([`value`]), recognises a few constructors by name ([`reducers`]), and keeps
//! everything else as a name.

mod reducers;
mod state_dict;
mod unpickler;
mod value;
mod zip;

use std::path::Path;

use self::state_dict::StateDictReader;
use super::allocation_limit::AllocationLimit;
use super::byte_reader::ByteReader;
use super::contents::Contents;
use super::errors::read_error;
use crate::{Error, Result};

/// Name of the entry with the pickle, in the archive's folder.
const PICKLE: &str = "data.pkl";
/// Bytes that the pickle may have. That of the largest published checkpoint has 1 MiB.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// Reads the table of contents of a checkpoint.
pub(super) fn read(reader: &ByteReader, path: &Path) -> Result<Contents> {
    let archive = zip::read(reader, path)?;
    let folder = folder(&archive, path)?;
    check_byte_order(&archive, folder, reader, path)?;
    let pickle = &archive[&format!("{folder}{PICKLE}")];
    let len = pickle.end - pickle.start;
    if len > MAX_PICKLE_BYTES {
        return Err(Error::format(
            path,
            format!("{PICKLE} has {len} bytes, at most {MAX_PICKLE_BYTES} are allowed"),
        ));
    }
    let code = reader.slice(pickle.start, len).map_err(read_error(path, PICKLE.to_owned(), len))?;
    let limit = AllocationLimit::for_file(reader.len());
    let (values, root) = unpickler::unpickle(&code, limit)
        .map_err(|message| Error::format(path, format!("{PICKLE}: {message}")))?;
    StateDictReader::new(&values, &archive, folder, path).contents(root)
}

/// Returns the folder of the archive, with its trailing slash.
fn folder<'a>(archive: &'a zip::Archive, path: &Path) -> Result<&'a str> {
    let is_root = |folder: &&str| folder.ends_with('/') && folder.matches('/').count() == 1;
    let mut folders = archive.keys().filter_map(|name| name.strip_suffix(PICKLE)).filter(is_root);
    match (folders.next(), folders.next()) {
        (Some(folder), None) if archive.contains_key(&format!("{folder}constants.pkl")) => {
            let message = "expected a checkpoint, got a TorchScript program: save the state_dict() of the module with torch.save";
            Err(Error::format(path, message))
        }
        (Some(folder), None) => Ok(folder),
        (None, _) => {
            Err(Error::format(path, format!("a zip archive without {PICKLE}: not written by torch.save")))
        }
        (Some(_), Some(_)) => {
            Err(Error::format(path, format!("a zip archive with two {PICKLE}, expected one")))
        }
    }
}

fn check_byte_order(archive: &zip::Archive, folder: &str, reader: &ByteReader, path: &Path) -> Result<()> {
    // Versions of PyTorch that wrote no such entry wrote native byte order, and ran on little-endian machines.
    let Some(entry) = archive.get(&format!("{folder}byteorder")) else { return Ok(()) };
    let len = (entry.end - entry.start).min(16);
    let order = reader.slice(entry.start, len).map_err(Error::io(path))?;
    if *order == *b"little" {
        return Ok(());
    }
    let got = String::from_utf8_lossy(&order);
    Err(Error::format(
        path,
        format!("expected byte order little, got byte order {got}: save it again on a little-endian machine"),
    ))
}
