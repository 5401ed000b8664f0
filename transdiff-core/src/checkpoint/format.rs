//! Format of a file, recognised by its first bytes.

use std::path::Path;

use super::byte_reader::ByteReader;
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
/// First byte of a pickle; the protocol number follows.
const PICKLE_PROTO: u8 = 0x80;

/// Returns the format of a file. Anything that is neither a zip archive nor a bare pickle is taken for safetensors,
/// which begins with a length and has no magic number.
pub(super) fn detect(reader: &ByteReader, path: &Path) -> Result<Format> {
    let mut first = [0; 9];
    let n = reader.len().min(first.len() as u64) as usize;
    reader.read(0, &mut first[..n]).map_err(Error::io(path))?;
    // As safetensors, `PK..` would be a header of 64 MiB or more, beyond the limit on headers.
    if first.starts_with(ZIP_MAGIC) || first.starts_with(EMPTY_ZIP_MAGIC) {
        return Ok(Format::PyTorch);
    }
    // A safetensors header of 640 bytes begins like a pickle of protocol 2, but continues with `{`.
    if first[0] == PICKLE_PROTO && (2..=5).contains(&first[1]) && first[8] != b'{' {
        let message = "expected a zip archive, got a bare pickle, as torch.save wrote before PyTorch 1.6 or with \
                       _use_new_zipfile_serialization=False: load it in PyTorch and save it again with torch.save, \
                       which writes a zip archive";
        return Err(Error::format(path, message));
    }
    Ok(Format::Safetensors)
}
