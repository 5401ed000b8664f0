//! Arrays in NumPy's npz files: zip archives of npy files, stored or deflated. The published code caches the moments of a
//! picture in such a file.
//!
//! Files are untrusted input: the memory for an array is limited by the length of the file, and every error names the file
//! and the array.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use half::f16;
use transdiff_core::text::shortened;
use transdiff_core::{Error, Result, try_with_capacity};
use zip::ZipArchive;
use zip::result::ZipError;

/// Bytes that a file may have: those of the moments of one picture are far fewer.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Bytes that an array of any file may have, and factor of the file's length beyond that. Deflated moments are hardly
/// smaller than stored ones, except those of a uniform picture.
const BASE_BYTES: u64 = 1 << 20;
const MAX_RATIO: u64 = 64;
/// Bytes that the header of an array may have.
const MAX_HEADER_BYTES: usize = 1 << 12;
const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// Array names and characters of a header that messages show.
const NAMES_SHOWN: usize = 8;
const TEXT_SHOWN: usize = 60;

trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// An open npz file.
pub struct NpzFile {
    path: PathBuf,
    len: u64,
    archive: ZipArchive<Box<dyn ReadSeek>>,
}

/// Array of numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct NpzArray {
    /// Size of every axis.
    pub shape: Vec<usize>,
    /// The elements, converted to f32.
    pub values: Vec<f32>,
}

impl NpzFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot read it; [`Error::Format`] if it is no regular file, no complete zip archive, or
    /// too large.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Opening a named pipe would block.
        let is_file = std::fs::metadata(path).map_err(Error::io(path))?.is_file();
        if !is_file {
            return Err(Error::format(path, "not a regular file"));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        Self::new(path, len, Box::new(BufReader::new(file)))
    }

    /// Opens a file whose contents are in memory. Errors call it `name`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        Self::new(name.as_ref(), bytes.len() as u64, Box::new(Cursor::new(bytes)))
    }

    fn new(path: &Path, len: u64, reader: Box<dyn ReadSeek>) -> Result<Self> {
        if len > MAX_FILE_BYTES {
            let message = format!("{len} bytes, at most {MAX_FILE_BYTES} are allowed in an npz file");
            return Err(Error::format(path, message));
        }
        let archive = ZipArchive::new(reader).map_err(|error| {
            Error::format(path, format!("no npz file, or a truncated one: {}", problem(&error)))
        })?;
        Ok(Self { path: path.to_owned(), len, archive })
    }

    /// Reads the array `key`: elements of 16, 32 or 64 bits in row-major order.
    ///
    /// # Errors
    /// [`Error::Format`] if the file has no such array; [`Error::Tensor`] if it is truncated, of another type or
    /// order, or larger than a file of this size may make it, or if a value is not finite in f32; [`Error::OutOfMemory`].
    pub fn array(&mut self, key: &str) -> Result<NpzArray> {
        let (path, limit) = (self.path.clone(), BASE_BYTES + MAX_RATIO * self.len);
        let invalid = |(expected, got): Mismatch| Error::Tensor {
            path: path.clone(),
            tensor: shortened(key, TEXT_SHOWN),
            expected,
            got,
        };
        let name = format!("{key}.npy");
        let Some(index) = self.archive.index_for_name(&name) else {
            return Err(self.missing(key));
        };
        let unreadable = |error| invalid(("a readable array".to_owned(), problem(&error)));
        let entry = self.archive.by_index(index).map_err(unreadable);
        let mut entry = entry?;
        let header = Header::read(&mut entry).map_err(invalid)?;
        let elements = header.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bytes = elements.and_then(|n| n.checked_mul(header.element.size() as u64));
        let Some(bytes) = bytes.filter(|&bytes| bytes <= limit) else {
            let expected = format!("at most {limit} bytes in a file of {} bytes", self.len);
            return Err(invalid((expected, format!("an array of shape {}", header.shape_text()))));
        };
        let mut data = try_with_capacity("reading an npz file", bytes as usize + 1)?;
        // One byte more, so that the end is reached, where the archive's checksum is compared.
        let read = entry.take(bytes + 1).read_to_end(&mut data);
        let count = read.map_err(|error| invalid((format!("{bytes} bytes"), error.to_string())))?;
        if count as u64 != bytes {
            let got = if (count as u64) < bytes { format!("{count}: truncated") } else { "more".to_owned() };
            let expected = format!("{bytes} bytes for shape {}", header.shape_text());
            return Err(invalid((expected, got)));
        }
        let values = header.element.decode(&data)?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let got = format!("{} at element {at}", values[at]);
            return Err(invalid(("finite values".to_owned(), got)));
        }
        Ok(NpzArray { shape: header.shape, values })
    }

    /// Names of the arrays.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let names = self.archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        names.map(|name| name.strip_suffix(".npy").map_or(name.clone(), str::to_owned))
    }

    fn missing(&self, key: &str) -> Error {
        let mut names: Vec<String> =
            self.keys().take(NAMES_SHOWN).map(|name| shortened(&name, TEXT_SHOWN)).collect();
        names.sort();
        let names = if names.is_empty() { "no arrays".to_owned() } else { names.join(", ") };
        let message = format!("no array {}; the file has {names}", shortened(key, TEXT_SHOWN));
        Error::format(&self.path, message)
    }
}

/// Descriptions of the expected and of the actual value.
type Mismatch = (String, String);

fn problem(error: &ZipError) -> String {
    shortened(&error.to_string(), 4 * TEXT_SHOWN)
}

/// Element type in a file, little-endian.
#[derive(Clone, Copy)]
enum Element {
    F16,
    F32,
    F64,
}

impl Element {
    fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    fn decode(self, data: &[u8]) -> Result<Vec<f32>> {
        let mut out = try_with_capacity("reading an npz file", data.len() / self.size())?;
        match self {
            Self::F16 => out.extend(data.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32())),
            Self::F32 => out.extend(data.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
            Self::F64 => out.extend(data.as_chunks().0.iter().map(|x| f64::from_le_bytes(*x) as f32)),
        }
        Ok(out)
    }
}

/// Header of an npy file, the text of a Python dictionary:
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (32, 16, 16), }`.
struct Header {
    element: Element,
    shape: Vec<usize>,
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, Mismatch> {
        let truncated = |error: std::io::Error| ("the header of an npy file".to_owned(), error.to_string());
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(truncated)?;
        let [magic @ .., major, _] = start;
        if magic != MAGIC || !(1..=3).contains(&major) {
            return Err(("an npy file of version 1 to 3".to_owned(), "another format".to_owned()));
        }
        // Version 1 has a length of two bytes, later ones of four.
        let mut len = [0; 4];
        reader.read_exact(&mut len[..if major == 1 { 2 } else { 4 }]).map_err(truncated)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_HEADER_BYTES {
            let expected = format!("a header of at most {MAX_HEADER_BYTES} bytes");
            return Err((expected, format!("{len} bytes")));
        }
        let mut text = vec![0; len];
        reader.read_exact(&mut text).map_err(truncated)?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Result<Self, Mismatch> {
        let invalid = |expected: &str| (expected.to_owned(), shortened(text.trim_end(), TEXT_SHOWN));
        let value = |key: &str| {
            let quoted = [format!("'{key}':"), format!("\"{key}\":")];
            let found = quoted.iter().find_map(|quoted| text.split_once(quoted.as_str()));
            found.map(|(_, rest)| rest.trim_start()).ok_or_else(|| invalid(&format!("a header with '{key}'")))
        };
        let element = match value("descr")?.get(1..4) {
            Some("<f2") => Element::F16,
            Some("<f4") => Element::F32,
            Some("<f8") => Element::F64,
            _ => return Err(invalid("float elements ('<f2', '<f4' or '<f8')")),
        };
        if !value("fortran_order")?.starts_with("False") {
            return Err(invalid("row-major order; numpy.ascontiguousarray converts"));
        }
        let sizes = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let sizes = sizes.map(|(sizes, _)| sizes.split(',').map(str::trim).filter(|size| !size.is_empty()));
        let shape: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.map(|size| size.parse().ok()).collect());
        Ok(Self { element, shape: shape.ok_or_else(|| invalid("a shape of numbers"))? })
    }

    fn shape_text(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        shortened(&sizes.join("x"), TEXT_SHOWN)
    }
}
