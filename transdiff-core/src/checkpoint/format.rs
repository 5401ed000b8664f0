//! Format of a file, recognised by its first bytes.

use std::path::Path;

use super::byte_reader::ByteReader;
use super::pytorch::bare;
use crate::{Error, Result};

/// Format of a file of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors.
    Safetensors,
    /// The zip archive that `torch.save` writes.
    PyTorch,
}

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// First bytes of an archive without entries: its end record.
const EMPTY_ZIP_MAGIC: &[u8] = b"PK\x05\x06";
/// Returns the format of a file. Anything that is neither a zip archive nor a bare pickle is taken for safetensors,
/// which begins with a length and has no magic number.
pub(super) fn detect(reader: &ByteReader, path: &Path) -> Result<Format> {
    let mut first = [0; bare::BYTES];
    let n = reader.len().min(first.len() as u64) as usize;
    let first = &mut first[..n];
    reader.read(0, first).map_err(Error::io(path))?;
    // As safetensors, `PK..` would be a header of 64 MiB or more, beyond the limit on headers.
    if first.starts_with(ZIP_MAGIC) || first.starts_with(EMPTY_ZIP_MAGIC) {
        return Ok(Format::PyTorch);
    }
    match bare::describe(first) {
        Some(message) => Err(Error::format(path, message)),
        None => Ok(Format::Safetensors),
    }
}
