//! Positioned reads of a file's bytes: from disk on demand, from memory, or from a memory map.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::errors::not_a_regular_file;
use crate::{Error, Result};

/// Bytes per read from disk: large enough for the disk, small enough for the cache.
const CHUNK: usize = 1 << 18;

/// Source of a file's bytes.
pub(super) enum ByteReader {
    /// On disk. A file that changes while it is open yields other values or an error.
    File { file: File, len: u64 },
    /// In memory, owned by the reader.
    Memory(Box<dyn AsRef<[u8]> + Send + Sync>),
    /// Memory-mapped.
    Mapped(Mmap),
    /// Several, one after another, each with the position of its first byte. No read crosses from one to the next.
    Concatenated(Vec<(u64, ByteReader)>),
}

/// Opens a file for reading.
pub(super) type OpenFile<'a> = dyn Fn(&Path) -> Result<ByteReader> + 'a;

impl ByteReader {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len) = open(path)?;
        Ok(Self::File { file, len })
    }

    /// Maps a regular file.
    ///
    /// # Safety
    /// No process changes or truncates the file during the lifetime of the reader.
    pub unsafe fn map(path: &Path) -> Result<Self> {
        let (file, _) = open(path)?;
        // SAFETY: the caller's promise is the one that the map needs.
        let map = unsafe { Mmap::map(&file) };
        Ok(Self::Mapped(map.map_err(Error::io(path))?))
    }

    /// Concatenates readers.
    pub fn concatenated(parts: impl Iterator<Item = Self>) -> Self {
        let mut end = 0;
        let place = |part: Self| {
            let start = end;
            end += part.len();
            (start, part)
        };
        Self::Concatenated(parts.map(place).collect())
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => (**bytes).as_ref().len() as u64,
            Self::Mapped(map) => map.len() as u64,
            Self::Concatenated(parts) => parts.last().map_or(0, |(start, part)| start + part.len()),
        }
    }

    /// The whole contents, if they are in memory.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::File { .. } | Self::Concatenated(_) => None,
            Self::Memory(bytes) => Some((**bytes).as_ref()),
            Self::Mapped(map) => Some(map),
        }
    }

    /// The part of a concatenation that holds the byte `at`, and the position of its first byte.
    fn part_at(parts: &[(u64, Self)], at: u64) -> io::Result<(u64, &Self)> {
        let next = parts.partition_point(|(start, _)| *start <= at);
        let (start, part) = next.checked_sub(1).map(|i| &parts[i]).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((*start, part))
    }

    /// Fills `out` with the bytes that begin at `start`.
    pub fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => read_exact_at(file, start, out),
            Self::Concatenated(parts) => {
                let (begin, part) = Self::part_at(parts, start)?;
                part.read(start - begin, out)
            }
            _ => {
                let bytes = self.slice(start, out.len() as u64)?;
                out.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Returns the `len` bytes that begin at `start`, copied only if they are not in memory. The range is checked
    /// before anything is allocated.
    pub fn slice(&self, start: u64, len: u64) -> io::Result<Cow<'_, [u8]>> {
        if start.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Self::Concatenated(parts) = self {
            let (begin, part) = Self::part_at(parts, start)?;
            return part.slice(start - begin, len);
        }
        // Positions in a file are u64, sizes in memory usize.
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if let Some(bytes) = self.bytes() {
            return Ok(Cow::Borrowed(&bytes[start as usize..start as usize + len]));
        }
        let mut out = Vec::new();
        out.try_reserve_exact(len)?;
        out.resize(len, 0);
        self.read(start, &mut out)?;
        Ok(Cow::Owned(out))
    }

    /// Calls `each` with consecutive chunks of `range`. All but the last have a multiple of eight bytes.
    pub fn for_each_chunk(&self, range: Range<u64>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.bytes().is_some() {
            each(&self.slice(range.start, range.end - range.start)?);
            return Ok(());
        }
        let chunk = (range.end - range.start).min(CHUNK as u64) as usize;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(chunk)?;
        buffer.resize(chunk, 0);
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(CHUNK as u64) as usize;
            self.read(at, &mut buffer[..n])?;
            each(&buffer[..n]);
            at += n as u64;
        }
        Ok(())
    }

    /// Returns a window for many small reads, most of them within `len` bytes of each other; none reaches past `end`.
    pub fn window(&self, end: u64, len: usize) -> BufferedWindow<'_> {
        let bytes = self.bytes().map_or_else(Cow::default, Cow::Borrowed);
        BufferedWindow { reader: self, start: 0, bytes, end, len: len.min(CHUNK) as u64 }
    }
}

impl fmt::Debug for ByteReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::File { .. } => "file",
            Self::Memory(_) => "memory",
            Self::Mapped(_) => "mapped",
            Self::Concatenated(_) => "concatenation",
        };
        write!(f, "{kind} of {} bytes", self.len())
    }
}

/// Buffer of the bytes that follow the last read from disk; the entire file where it is in memory.
pub(super) struct BufferedWindow<'a> {
    reader: &'a ByteReader,
    start: u64,
    bytes: Cow<'a, [u8]>,
    end: u64,
    /// Bytes per read.
    len: u64,
}

impl BufferedWindow<'_> {
    /// Returns the `N` bytes that begin at `at`.
    pub fn get<const N: usize>(&mut self, at: u64) -> io::Result<[u8; N]> {
        if let Some(found) = self.buffered(at) {
            return Ok(found);
        }
        let len = self.end.saturating_sub(at).min(self.len);
        self.bytes = Cow::default(); // Frees the old buffer before the new one is allocated.
        self.bytes = self.reader.slice(at, len)?;
        self.start = at;
        self.buffered(at).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn buffered<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let offset = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(offset..)?.first_chunk().copied()
    }
}

/// Opens a regular file. Its length is taken from the open file, so that both belong together.
fn open(path: &Path) -> Result<(File, u64)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a named pipe would otherwise block until it has a writer.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::format(path, not_a_regular_file(metadata.file_type())));
    }
    Ok((file, metadata.len()))
}

#[cfg(unix)]
fn read_exact_at(file: &File, start: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut start: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (start, out) = (start + n as u64, &mut out[n..]),
        }
    }
    Ok(())
}
