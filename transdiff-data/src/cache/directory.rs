//! Directory of a cache: the names of its files, and its header.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use transdiff_core::checkpoint::{WeightFile, write_bytes_atomic};
use transdiff_core::{Error, Result};

use super::entries::hexadecimal;
use super::header::{CacheHeader, VERSION};

/// Name of the file with the header, in the directory of a cache.
pub const HEADER_FILE: &str = "cache.json";
/// Bytes that a header may have; class names take most of them.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Metadata key of the fingerprint of the header in shards and index.
const FINGERPRINT: &str = "transdiff.cache";

/// A cache's directory with its header.
#[derive(Clone, Debug)]
pub(super) struct CacheDirectory {
    path: PathBuf,
    pub header: CacheHeader,
    /// SHA-256 of the header.
    fingerprint: String,
}

impl CacheDirectory {
    /// The directory at `path` with a header that is not written yet.
    pub fn new(path: &Path, header: CacheHeader) -> Result<Self> {
        header.spec.validate()?;
        let fingerprint = hexadecimal(&Sha256::digest(encoded(&header)));
        Ok(Self { path: path.to_owned(), header, fingerprint })
    }

    /// Reads the header of the directory at `path`; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no header, of another version, or invalid.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = path.join(HEADER_FILE);
        let opened = match fs::File::open(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Error::io(&file))?,
        };
        let mut text = Vec::new();
        opened.take(MAX_HEADER_BYTES + 1).read_to_end(&mut text).map_err(Error::io(&file))?;
        if text.len() as u64 > MAX_HEADER_BYTES {
            return Err(Error::format(&file, format!("larger than {MAX_HEADER_BYTES} bytes")));
        }
        let invalid =
            |error: serde_json::Error| Error::format(&file, format!("no header of a cache: {error}"));
        // The version comes first: the fields of another one may be others.
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).map_err(invalid)?;
        if let Some(version) = fields.get("version").filter(|version| **version != VERSION) {
            let message = format!("format version {version} of a cache, expected version {VERSION}");
            return Err(Error::format(&file, message));
        }
        let header: CacheHeader = serde_json::from_slice(&text).map_err(invalid)?;
        if u32::try_from(header.entries).is_err() {
            let message = format!("expected fewer than 2^32 pictures, got {}", header.entries);
            return Err(Error::format(&file, message));
        }
        Self::new(path, header).map(Some).map_err(|error| Error::format(&file, error.to_string()))
    }

    /// Writes the header.
    pub fn write_header(&self) -> Result<()> {
        write_bytes_atomic(self.path.join(HEADER_FILE), &encoded(&self.header))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the list of pictures.
    pub fn entries_path(&self) -> PathBuf {
        self.path.join("entries.safetensors")
    }

    /// Path of the index.
    pub fn index_path(&self) -> PathBuf {
        self.path.join("index.safetensors")
    }

    /// Path of shard `number`.
    pub fn shard_path(&self, number: usize) -> PathBuf {
        self.path.join(format!("shard-{number:05}.safetensors"))
    }

    /// Metadata that marks a file as one of this cache.
    pub fn mark(&self) -> (String, String) {
        (FINGERPRINT.to_owned(), self.fingerprint.clone())
    }

    /// Checks that `file` is marked as one of this cache.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn check_mark(&self, file: &WeightFile) -> Result<()> {
        if file.metadata().get(FINGERPRINT) == Some(&self.fingerprint) {
            return Ok(());
        }
        Err(Error::format(file.path(), "a file of another cache than its directory's cache.json describes"))
    }
}

impl CacheHeader {
    /// Reads the header of the cache in the directory `path`, complete or not; `None` if the directory holds no cache.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no header, of another version, or invalid.
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Self>> {
        Ok(CacheDirectory::read(path.as_ref())?.map(|cache| cache.header))
    }
}

fn encoded(header: &CacheHeader) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(header).expect("numbers and strings can be written as JSON");
    text.push(b'\n');
    text
}
