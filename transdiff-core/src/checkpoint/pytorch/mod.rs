//! PyTorch checkpoints: a zip archive of a pickle and of the tensors' storages.
//!
//! A pickle is a program that builds objects. Python's unpickler imports and calls whatever the program names. This one
//! does not: it builds a table of values ([`value`]), in which calls are recorded; recognises a few constructors by name
//! ([`reducers`], [`tensors`]); and keeps everything else as a name.

pub(super) mod bare;
mod cost;
mod memo;
mod numbers;
mod reducers;
mod state_dict;
mod tensors;
mod unpickler;
mod value;
mod zip;

use std::path::Path;

use self::state_dict::StateDictReader;
use self::tensors::Places;
use self::zip::Archive;
use super::allocation_limit::AllocationLimit;
use super::byte_reader::ByteReader;
use super::contents::Contents;
use super::errors::{Mismatch, read_error};
use crate::{Error, Result};

/// Name of the entry with the pickle, in the archive's folder.
const PICKLE: &str = "data.pkl";
/// Bytes that the pickle may have, whatever the length of the file. That of the largest published checkpoint has 1 MiB.
const MAX_PICKLE_BYTES: u64 = 256 << 20;
/// Bytes of the allocation limit that the pickle's values leave to the table of contents.
const CONTENTS_BYTES: u64 = 4 << 20;
/// Bytes that the table of contents may take.
const MAX_CONTENTS_BYTES: u64 = 72 << 20;

/// Reads the table of contents of a checkpoint.
pub(super) fn read(reader: &ByteReader, path: &Path) -> Result<Contents> {
    let mut limit = AllocationLimit::for_archive(reader.len());
    let contents_limit = limit.split_off(CONTENTS_BYTES);
    let archive = Archive::read(reader, path, &mut limit)?;
    let folder = folder(&archive, path)?;
    check_byte_order(&archive, folder, reader, path)?;
    let to_error = |(expected, got): Mismatch| Error::format(path, format!("expected {expected}, got {got}"));
    let pickle = archive.contents(&format!("{folder}{PICKLE}")).map_err(to_error)?;
    let len = pickle.end - pickle.start;
    if len > MAX_PICKLE_BYTES {
        return Err(Error::format(
            path,
            format!("{PICKLE} has {len} bytes, at most {MAX_PICKLE_BYTES} are allowed"),
        ));
    }
    let in_pickle = |message: String| Error::format(path, format!("{PICKLE}: {message}"));
    limit.reserve_bytes(len as usize).map_err(in_pickle)?;
    let code = reader.slice(pickle.start, len).map_err(read_error(path, PICKLE.to_owned(), len))?;
    let (values, root) = unpickler::unpickle(&code, limit).map_err(in_pickle)?;
    let places = Places { archive: &archive, folder, pickle: pickle.start };
    let limit = values.limit.clone().joined(contents_limit).split_off(MAX_CONTENTS_BYTES);
    StateDictReader::new(&code, &values, places, path, limit).contents(root)
}

/// Returns the folder of the archive, with its trailing slash.
fn folder<'a>(archive: &'a Archive, path: &Path) -> Result<&'a str> {
    let is_root = |folder: &&str| folder.ends_with('/') && folder.matches('/').count() == 1;
    let mut folders = archive.names().filter_map(|name| name.strip_suffix(PICKLE)).filter(is_root);
    match (folders.next(), folders.next()) {
        (Some(folder), None) if archive.contains(&format!("{folder}constants.pkl")) => {
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

fn check_byte_order(archive: &Archive, folder: &str, reader: &ByteReader, path: &Path) -> Result<()> {
    // Versions of PyTorch that wrote no such entry wrote native byte order, and ran on little-endian machines.
    let Ok(entry) = archive.contents(&format!("{folder}byteorder")) else { return Ok(()) };
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
