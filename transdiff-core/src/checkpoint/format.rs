//! Which format a file has, by its first bytes.

use std::path::Path;

use super::source::Source;
use crate::{Error, Result};

/// A format of files of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors.
    Safetensors,
    /// The zip archive that `torch.save` writes.
    PyTorch,
}

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// An archive without entries begins with its end.
const EMPTY_ZIP_MAGIC: &[u8] = b"PK\x05\x06";
/// A pickle begins with this and the number of its protocol.
const PICKLE_PROTO: u8 = 0x80;

/// The format of `source`. What is neither a zip archive nor a bare pickle is taken for safetensors, whose first
/// bytes are a number.
pub(super) fn of(source: &Source, path: &Path) -> Result<Format> {
    let mut first = [0; 9];
    let n = source.len().min(first.len() as u64) as usize;
    source.read(0, &mut first[..n]).map_err(Error::io(path))?;
    // As safetensors, `PK..` would be a header of 64 MiB or more, beyond what is read.
    if first.starts_with(ZIP_MAGIC) || first.starts_with(EMPTY_ZIP_MAGIC) {
        return Ok(Format::PyTorch);
    }
    // A header of 640 bytes begins like a pickle of protocol 2, but goes on with `{`.
    if first[0] == PICKLE_PROTO && (2..=5).contains(&first[1]) && first[8] != b'{' {
        let message = "a bare pickle, as torch.save wrote before PyTorch 1.6 or with \
                       _use_new_zipfile_serialization=False: load it there and save it again with torch.save, which \
                       writes a zip archive";
        return Err(Error::format(path, message));
    }
    Ok(Format::Safetensors)
}
