//! Format of a file, recognised by its first bytes.

use std::path::Path;

use super::byte_reader::ByteReader;
use super::pytorch::bare;
use super::safetensors::MAX_HEADER_BYTES;
use crate::{Error, Result};

/// Format of a file of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors.
    Safetensors,
    /// The zip archive that `torch.save` writes.
    PyTorch,
}

/// Format of a file that is read: tensors, or an index of files of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    Safetensors,
    PyTorch,
    /// JSON, the format of an index.
    Json,
}

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// First bytes of an archive without entries: its end record.
const EMPTY_ZIP_MAGIC: &[u8] = b"PK\x05\x06";
/// Position of the magic number of a tar archive.
const TAR_MAGIC_AT: usize = 257;
/// Bytes that are read to recognise a format.
const FIRST_BYTES: usize = 512;

const GZIP: &str = "compressed with gzip: decompress it first (gzip -d)";
const XZ: &str = "compressed with xz: decompress it first (xz -d)";
const ZSTD: &str = "compressed with zstd: decompress it first (zstd -d)";
const BZIP2: &str = "compressed with bzip2: decompress it first (bzip2 -d)";
const LZ4: &str = "compressed with lz4: decompress it first (lz4 -d)";
const SEVEN_ZIP: &str = "a 7z archive: extract the checkpoint first (7z x)";
const RAR: &str = "a RAR archive: extract the checkpoint first (unrar x)";
const TAR: &str = "a tar archive: extract the checkpoint first (tar -xf)";
const GIT_LFS: &str = "a Git LFS pointer, which stands for the file in a repository: fetch the file itself with \
                       `git lfs pull` in the repository, or download it again";
const HTML: &str = "an HTML or XML page, such as an error or login page that was saved in place of the file: download \
                    the file again";
const GGUF: &str =
    "a GGUF file, the format of llama.cpp: get the safetensors or PyTorch file of the model instead";
const HDF5: &str = "an HDF5 file, as Keras writes: get the safetensors or PyTorch file of the model instead";
const NUMPY: &str = "a NumPy array: save the weights in safetensors format or with torch.save instead";

/// First bytes of files that are not read, with the message about them.
const REJECTED: [(&[u8], &str); 12] = [
    (b"version https://git-lfs", GIT_LFS),
    (b"version https://hawser", GIT_LFS),
    (b"\x1f\x8b", GZIP),
    (b"\xfd7zXZ\0", XZ),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"BZh", BZIP2),
    (b"\x04\x22\x4d\x18", LZ4),
    (b"7z\xbc\xaf\x27\x1c", SEVEN_ZIP),
    (b"Rar!\x1a\x07", RAR),
    (b"GGUF", GGUF),
    (b"\x89HDF\r\n", HDF5),
    (b"\x93NUMPY", NUMPY),
];

/// Returns the format of a file. Anything unknown is taken for safetensors, which begins with a length and has no magic
/// number.
pub(super) fn detect(reader: &ByteReader, path: &Path) -> Result<FileFormat> {
    let mut first = [0; FIRST_BYTES];
    let n = reader.len().min(first.len() as u64) as usize;
    reader.read(0, &mut first[..n]).map_err(Error::io(path))?;
    let first = &first[..n];
    if first.is_empty() {
        return Err(Error::format(path, "an empty file: copy or download it again"));
    }
    // The length of a header may look like any magic number of up to four bytes.
    if begins_with_header(first) {
        return Ok(FileFormat::Safetensors);
    }
    if first.starts_with(ZIP_MAGIC) || first.starts_with(EMPTY_ZIP_MAGIC) {
        return Ok(FileFormat::PyTorch);
    }
    if let Some(message) = bare::describe(first) {
        return Err(Error::format(path, message));
    }
    if let Some(message) = rejection(first) {
        return Err(Error::format(path, message));
    }
    Ok(if text_start(first).starts_with(b"{") { FileFormat::Json } else { FileFormat::Safetensors })
}

/// Returns whether a file begins like safetensors: with a length within the limit, and the brace of a JSON object.
fn begins_with_header(first: &[u8]) -> bool {
    let length = first.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) <= MAX_HEADER_BYTES);
    length && first.get(8) == Some(&b'{')
}

/// The message about a file of a known format that is not read.
fn rejection(first: &[u8]) -> Option<&'static str> {
    if let Some((_, message)) = REJECTED.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Some(message);
    }
    if first.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return Some(TAR);
    }
    // A tag, a comment or a declaration; markup may be in either case.
    let is_markup = matches!(text_start(first), [b'<', b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'?', ..]);
    is_markup.then_some(HTML)
}

/// The text after a byte order mark and white space.
fn text_start(first: &[u8]) -> &[u8] {
    first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start()
}
