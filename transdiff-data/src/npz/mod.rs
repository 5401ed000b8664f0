//! Arrays in NumPy's npz files: zip archives of npy files, stored or deflated. The published code caches the moments of a
//! picture in such a file, and evaluations keep the statistics and the pictures of a data set in one.
//!
//! Files are untrusted input: the memory for an array is limited by the length of the file, and every error names the file
//! and the array.

mod header;
mod write;

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use transdiff_core::text::shortened;
use transdiff_core::{Error, Result, try_with_capacity};
use zip::ZipArchive;
use zip::result::ZipError;

pub use header::NpzFloat;
use header::{Element, Header, Mismatch, Problem, TEXT_SHOWN, problem};
pub use write::npz_bytes;

/// Bytes that an array in memory may have: a covariance of 2048 features takes an eighth.
const MAX_ARRAY_BYTES: u64 = 256 << 20;
/// Bytes that an array of any file may have, and factor of the file's length beyond that. Deflated moments are hardly
/// smaller than stored ones, except those of a uniform picture.
const BASE_BYTES: u64 = 1 << 20;
const MAX_RATIO: u64 = 64;
/// Array names that messages show.
const NAMES_SHOWN: usize = 8;

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
pub struct NpzArray<T = f32> {
    /// Size of every axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Vec<T>,
}

impl NpzFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot read it; [`Error::Format`] if it is no regular file, or no complete zip archive.
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
        let archive = ZipArchive::new(reader).map_err(|error| {
            Error::format(path, format!("no npz file, or a truncated one: {}", problem(&error)))
        })?;
        Ok(Self { path: path.to_owned(), len, archive })
    }

    /// Reads the array `key`: floats of 16, 32 or 64 bits in row-major order.
    ///
    /// # Errors
    /// [`Error::Format`] if the file has no such array; [`Error::Tensor`] if it is truncated, of another type or
    /// order, or larger than a file of this size may make it, or if a value is not finite in the type asked for;
    /// [`Error::OutOfMemory`].
    pub fn array<T: NpzFloat>(&mut self, key: &str) -> Result<NpzArray<T>> {
        let len = self.len;
        self.read(key, |header, bytes, reader| {
            let limit = (BASE_BYTES + MAX_RATIO * len).min(MAX_ARRAY_BYTES);
            let Element::Float(float) = header.element else {
                return Err(header.mismatch("float elements ('<f2', '<f4' or '<f8')"));
            };
            if bytes > limit {
                let expected = format!("at most {limit} bytes in a file of {len} bytes");
                return Err((expected, format!("an array of shape {}", header.shape_text())).into());
            }
            let mut data = try_with_capacity("reading an npz file", bytes as usize)?;
            reader.take(bytes).read_to_end(&mut data).map_err(|error| truncated(bytes, &error))?;
            let values: Vec<T> = float.decode(&data)?;
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                let got = format!("{} at element {at}", values[at]);
                return Err(("finite values".to_owned(), got).into());
            }
            Ok((data.len() as u64, NpzArray { shape: header.shape.clone(), values }))
        })
    }

    /// Reads the pictures of the array `key`, bytes [n, height, width, 3], and calls `f` with the height, the width and the
    /// pixels of each. Memory holds one of them.
    ///
    /// # Errors
    /// As [`array`](Self::array), for elements of 8 bits; those of `f`.
    pub fn pictures(
        &mut self,
        key: &str,
        mut f: impl FnMut([usize; 2], &[u8]) -> Result<()>,
    ) -> Result<usize> {
        self.read(key, |header, bytes, reader| {
            let (count, sides, size) = header.pictures()?;
            let mut pixels = Vec::new();
            for _ in 0..count {
                pixels.clear();
                // Memory grows with what is there, not with what the header says.
                reader.take(size).read_to_end(&mut pixels).map_err(|error| truncated(bytes, &error))?;
                if pixels.len() as u64 != size {
                    let expected = format!("{bytes} bytes for shape {}", header.shape_text());
                    return Err((expected, "fewer: truncated".to_owned()).into());
                }
                f(sides, &pixels)?;
            }
            Ok((bytes, count))
        })
    }

    /// Number of pictures of the array `key`, whose header is read alone.
    ///
    /// # Errors
    /// Those of [`pictures`](Self::pictures) that the header shows.
    pub fn picture_count(&mut self, key: &str) -> Result<usize> {
        let (path, name) = (self.path.clone(), format!("{key}.npy"));
        let Some(index) = self.archive.index_for_name(&name) else {
            return Err(self.missing(key));
        };
        let of_array = |problem: Problem| problem.of_array(&path, key);
        let mut entry = self.archive.by_index(index).map_err(|error| of_array(unreadable(&error)))?;
        let header = Header::read(&mut entry).map_err(|mismatch| of_array(mismatch.into()))?;
        Ok(header.pictures().map_err(of_array)?.0)
    }

    /// Reads the array `key` by `read`, which gets its header, the number of its bytes, and a reader of them, and returns the
    /// number of bytes that it has read. There must be no more.
    fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Header, u64, &mut dyn Read) -> Result<(u64, T), Problem>,
    ) -> Result<T> {
        let path = self.path.clone();
        let name = format!("{key}.npy");
        let Some(index) = self.archive.index_for_name(&name) else {
            return Err(self.missing(key));
        };
        let of_array = |problem: Problem| problem.of_array(&path, key);
        let mut entry = self.archive.by_index(index).map_err(|error| of_array(unreadable(&error)))?;
        let header = Header::read(&mut entry).map_err(|mismatch| of_array(mismatch.into()))?;
        let elements = header.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let Some(bytes) = elements.and_then(|n| n.checked_mul(header.element.size() as u64)) else {
            let got = format!("an array of shape {}", header.shape_text());
            return Err(of_array(("fewer than 2^64 bytes".to_owned(), got).into()));
        };
        let (count, value) = read(&header, bytes, &mut entry).map_err(of_array)?;
        let expected = || format!("{bytes} bytes for shape {}", header.shape_text());
        if count < bytes {
            return Err(of_array((expected(), format!("{count}: truncated")).into()));
        }
        // The archive's checksum is compared at the end.
        match entry.read(&mut [0]) {
            Ok(0) => Ok(value),
            Ok(_) => Err(of_array((expected(), "more".to_owned()).into())),
            Err(error) => Err(of_array(truncated(bytes, &error).into())),
        }
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

fn truncated(bytes: u64, error: &io::Error) -> Mismatch {
    (format!("{bytes} bytes"), error.to_string())
}

fn unreadable(error: &ZipError) -> Problem {
    ("a readable array".to_owned(), problem(error)).into()
}
