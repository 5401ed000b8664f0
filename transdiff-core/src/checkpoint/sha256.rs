//! Identity of a file by its contents.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 1 << 16;

/// SHA-256 of the contents of a file, in 64 hexadecimal digits.
///
/// # Errors
/// [`Error::Io`] if the system cannot read it.
pub fn sha256(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece).map_err(Error::io(path))? {
            0 => return Ok(hexadecimal(hash)),
            read => hash.update(&piece[..read]),
        }
    }
}

/// SHA-256 of bytes, in 64 hexadecimal digits.
pub fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), abc);
        assert_eq!(sha256_of(b"abc"), abc);
        std::fs::write(&path, vec![b'a'; 1_000_000]).unwrap();
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(sha256(&path).unwrap(), million);
        assert!(matches!(sha256(folder.path().join("absent")), Err(Error::Io { .. })));
    }
}
