//! Reader of the zip archive around a PyTorch checkpoint: entries listed by the central directory, of which those that
//! are read have to be uncompressed.
//!
//! An archive that two readers could interpret differently is rejected. Bytes after it are tolerated.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::super::allocation_limit::AllocationLimit;
use super::super::byte_reader::ByteReader;
use super::super::errors::{Mismatch, read_error};
use crate::{Error, Result};

/// Bytes that the central directory may have. That of the largest published checkpoint has 0.5 MiB.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// Bytes that an entry takes, apart from its name.
const ENTRY_BYTES: usize = 112;

const END_MAGIC: u32 = 0x0605_4b50;
const END_LEN: u64 = 22;
/// Bytes that may follow the end record: its comment, or anything else.
const MAX_TAIL: u64 = u16::MAX as u64;
const ZIP64_LOCATOR_MAGIC: u32 = 0x0706_4b50;
const ZIP64_LOCATOR_LEN: u64 = 20;
const ZIP64_END_MAGIC: u32 = 0x0606_4b50;
const ZIP64_END_LEN: u64 = 56;
/// Bytes of a record of the central directory without its name.
const RECORD_LEN: u64 = 46;
const ENTRY_MAGIC: u32 = 0x0201_4b50;
const LOCAL_MAGIC: u32 = 0x0403_4b50;
const LOCAL_LEN: u64 = 30;
/// Tag of the extra field with 64-bit sizes.
const ZIP64_EXTRA: u16 = 1;
/// Flag of an encrypted entry.
const ENCRYPTED: u16 = 1;
/// Method of an uncompressed entry.
const STORED: u16 = 0;

/// Entries of an archive, by name.
#[derive(Debug, Default)]
pub(super) struct Archive(BTreeMap<String, ArchiveEntry>);

/// Position of an entry's contents, and whether they can be read there.
#[derive(Debug)]
struct ArchiveEntry {
    contents: Range<u64>,
    method: u16,
    encrypted: bool,
}

impl Archive {
    /// Reads the central directory of an archive, and checks that no two entries share a byte or a name.
    pub fn read(reader: &ByteReader, path: &Path, limit: &mut AllocationLimit) -> Result<Self> {
        let archive = ZipReader { reader, path };
        let (directory, count) = archive.directory()?;
        let len = directory.end - directory.start;
        let to_error = read_error(path, "central directory".to_owned(), len);
        let bytes = reader.slice(directory.start, len).map_err(to_error)?;
        let mut fields = Fields(&bytes);
        let mut found = Self::default();
        // The number of entries is checked below.
        let mut extents = Vec::with_capacity(count.min(len / RECORD_LEN) as usize);
        for _ in 0..count {
            let (name, entry, start) = archive.entry(&mut fields)?;
            limit.reserve_bytes(ENTRY_BYTES + name.len()).map_err(|message| archive.error(message))?;
            extents.push(start..entry.contents.end);
            if found.0.insert(name.to_owned(), entry).is_some() {
                return Err(archive.error(format!("two entries named {name}")));
            }
        }
        if !fields.0.is_empty() {
            return Err(archive.error(format!("{} bytes after the last of {count} entries", fields.0.len())));
        }
        archive.check_disjoint(extents, directory.start)?;
        Ok(found)
    }

    /// Names of the entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the position of the contents of the entry `name`, which must be stored as they are.
    pub fn contents(&self, name: &str) -> Result<Range<u64>, Mismatch> {
        let Some(entry) = self.0.get(name) else {
            return Err((format!("an entry {name} in the archive"), "none".to_owned()));
        };
        let got = match entry {
            ArchiveEntry { encrypted: true, .. } => "an encrypted one".to_owned(),
            ArchiveEntry { method: STORED, .. } => return Ok(entry.contents.clone()),
            ArchiveEntry { method, .. } => {
                format!("one compressed by method {method}: save the checkpoint again in PyTorch")
            }
        };
        Err((format!("an uncompressed entry {name}, as PyTorch writes it"), got))
    }
}

/// One record of the central directory.
struct EntryRecord<'a> {
    name: &'a str,
    method: u16,
    encrypted: bool,
    /// Bytes in the file.
    packed: u64,
    /// Position of the local header.
    local: u64,
}

struct ZipReader<'a> {
    reader: &'a ByteReader,
    path: &'a Path,
}

impl ZipReader<'_> {
    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::format(self.path, format!("zip archive: {message}"))
    }

    /// Locates the central directory. Returns its byte range and the number of its entries.
    fn directory(&self) -> Result<(Range<u64>, u64)> {
        let end = self.end_record()?;
        let (record, limit) = match self.zip64_end_record(end)? {
            Some((record, at)) => (record, at),
            None => (self.classic_end_record(end)?, end),
        };
        let directory = record.start.checked_add(record.len).map(|end| record.start..end);
        let Some(directory) = directory.filter(|d| d.end == limit) else {
            let (start, len) = (record.start, record.len);
            return Err(self.error(format!(
                "the central directory of {len} bytes at {start} does not end where its end record begins, at {limit}"
            )));
        };
        if record.len > MAX_DIRECTORY_BYTES {
            let len = record.len;
            return Err(self.error(format!(
                "the central directory has {len} bytes, at most {MAX_DIRECTORY_BYTES} are allowed"
            )));
        }
        Ok((directory, record.count))
    }

    /// Returns the position of the end record: the last one, as PyTorch does.
    fn end_record(&self) -> Result<u64> {
        let len = self.reader.len();
        if len < END_LEN {
            return Err(self.error(format!("truncated: expected at least {END_LEN} bytes, got {len}")));
        }
        let from = len.saturating_sub(END_LEN + MAX_TAIL);
        let tail = self.reader.slice(from, len - from).map_err(Error::io(self.path))?;
        let is_end = |at: &usize| tail[*at..].starts_with(&END_MAGIC.to_le_bytes());
        let found = (0..=tail.len() - END_LEN as usize).rev().find(is_end);
        found.map(|at| from + at as u64).ok_or_else(|| self.error("truncated: no end record"))
    }

    fn classic_end_record(&self, at: u64) -> Result<EndRecord> {
        let bytes: [u8; END_LEN as usize] = self.read(at)?;
        let mut fields = Fields(&bytes[4..]);
        let read = |fields: &mut Fields<'_>| {
            let disks = (fields.u16()?, fields.u16()?);
            let counts = (fields.u16()?, fields.u16()?);
            let (len, start) = (fields.u32()?, fields.u32()?);
            let count = (disks == (0, 0) && counts.0 == counts.1).then_some(counts.1)?;
            Some(EndRecord { count: count.into(), len: len.into(), start: start.into() })
        };
        read(&mut fields).ok_or_else(|| self.error("archives in several parts are not supported"))
    }

    /// Returns the 64-bit end record and its position, if the file has one.
    fn zip64_end_record(&self, end: u64) -> Result<Option<(EndRecord, u64)>> {
        let Some(at) = end.checked_sub(ZIP64_LOCATOR_LEN) else { return Ok(None) };
        let locator: [u8; ZIP64_LOCATOR_LEN as usize] = self.read(at)?;
        let mut fields = Fields(&locator);
        if fields.u32() != Some(ZIP64_LOCATOR_MAGIC) {
            return Ok(None);
        }
        let place = (|| Some((fields.u32()?, fields.u64()?, fields.u32()?)))();
        let Some((0, record, 0 | 1)) = place else {
            return Err(self.error("archives in several parts are not supported"));
        };
        if record.checked_add(ZIP64_END_LEN).is_none_or(|end| end != at) {
            return Err(self.error(format!("no 64-bit end record at {record}, before its locator")));
        }
        let bytes: [u8; ZIP64_END_LEN as usize] = self.read(record)?;
        let mut fields = Fields(&bytes);
        let read = |fields: &mut Fields<'_>| {
            (fields.u32()? == ZIP64_END_MAGIC && fields.u64()? == ZIP64_END_LEN - 12).then_some(())?;
            fields.skip(4)?;
            let disks = (fields.u32()?, fields.u32()?);
            let counts = (fields.u64()?, fields.u64()?);
            let (len, start) = (fields.u64()?, fields.u64()?);
            let count = (disks == (0, 0) && counts.0 == counts.1).then_some(counts.1)?;
            Some(EndRecord { count, len, start })
        };
        let found =
            read(&mut fields).ok_or_else(|| self.error(format!("no 64-bit end record at {record}")))?;
        Ok(Some((found, record)))
    }

    /// Reads the next record of the central directory and the local header of its entry. Returns the entry, its name
    /// and its position.
    fn entry<'a>(&self, fields: &mut Fields<'a>) -> Result<(&'a str, ArchiveEntry, u64)> {
        let record = self.record(fields)?;
        let contents = self.contents(&record)?;
        let entry = ArchiveEntry { contents, method: record.method, encrypted: record.encrypted };
        Ok((record.name, entry, record.local))
    }

    /// Reads the next record of the central directory.
    fn record<'a>(&self, fields: &mut Fields<'a>) -> Result<EntryRecord<'a>> {
        let read = |fields: &mut Fields<'a>| {
            (fields.u32()? == ENTRY_MAGIC).then_some(())?;
            fields.skip(4)?;
            let (flags, method) = (fields.u16()?, fields.u16()?);
            fields.skip(8)?; // time, date and checksum
            let sizes = [fields.u32()?, fields.u32()?];
            let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
            fields.skip(8)?; // part and attributes
            let local = fields.u32()?;
            let name = fields.bytes(name.into())?;
            let extra = fields.bytes(extra.into())?;
            fields.skip(comment.into())?;
            Some((flags, method, sizes, local, name, extra))
        };
        let (flags, method, [packed, size], local, name, extra) =
            read(fields).ok_or_else(|| self.error("truncated: the central directory ends too early"))?;
        let name =
            std::str::from_utf8(name).map_err(|_| self.error("an entry has a name that is not UTF-8"))?;
        let sizes = zip64_sizes(extra, [size, packed, local]);
        let [size, packed, local] = sizes.ok_or_else(|| {
            self.error(format!("entry {name}: no 64-bit sizes, which its 32-bit ones refer to"))
        })?;
        let encrypted = flags & ENCRYPTED != 0;
        if size != packed && method == STORED && !encrypted {
            return Err(self.error(format!("entry {name}: expected {size} bytes stored, got {packed}")));
        }
        Ok(EntryRecord { name, method, encrypted, packed, local })
    }

    /// Returns the range of the entry's contents.
    fn contents(&self, entry: &EntryRecord<'_>) -> Result<Range<u64>> {
        let name = entry.name;
        let outside = || self.error(format!("entry {name} reaches past the end of the file"));
        let after = entry.local.checked_add(LOCAL_LEN).filter(|&end| end <= self.reader.len());
        let after = after.ok_or_else(outside)?;
        let header: [u8; LOCAL_LEN as usize] = self.read(entry.local)?;
        let mut fields = Fields(&header);
        let read = |fields: &mut Fields<'_>| {
            (fields.u32()? == LOCAL_MAGIC).then_some(())?;
            fields.skip(4)?;
            let method = fields.u16()?;
            fields.skip(16)?;
            Some((method, fields.u16()?, fields.u16()?))
        };
        let (method, name_len, extra_len) =
            read(&mut fields).ok_or_else(|| self.error(format!("entry {name} has no local header")))?;
        let start = after + u64::from(name_len) + u64::from(extra_len);
        let contents =
            start.checked_add(entry.packed).filter(|&end| end <= self.reader.len()).map(|end| start..end);
        let contents = contents.ok_or_else(outside)?;
        let own = self.reader.slice(after, name_len.into()).map_err(Error::io(self.path))?;
        if own != name.as_bytes() || method != entry.method {
            return Err(
                self.error(format!("the local header of entry {name} disagrees with the central directory"))
            );
        }
        Ok(contents)
    }

    /// Checks that no two extents share a byte, and that all are before the directory.
    fn check_disjoint(&self, mut extents: Vec<Range<u64>>, directory: u64) -> Result<()> {
        extents.sort_by_key(|extent| extent.start);
        let ends = extents.iter().skip(1).map(|next| next.start).chain([directory]);
        match extents.iter().zip(ends).find(|(extent, end)| extent.end > *end) {
            Some((extent, _)) => {
                Err(self.error(format!("the entry at byte {} overlaps what follows it", extent.start)))
            }
            None => Ok(()),
        }
    }

    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.reader.read(at, &mut out).map_err(Error::io(self.path))?;
        Ok(out)
    }
}

/// Description of the central directory in an end record.
struct EndRecord {
    count: u64,
    len: u64,
    start: u64,
}

/// Combines 32-bit sizes with those that do not fit in 32 bits, which the 64-bit extra field holds in the same order.
fn zip64_sizes(mut extra: &[u8], short: [u32; 3]) -> Option<[u64; 3]> {
    let mut long = Fields(&[]);
    while !extra.is_empty() {
        let mut fields = Fields(extra);
        let (tag, len) = (fields.u16()?, fields.u16()?);
        let body = fields.bytes(len.into())?;
        if tag == ZIP64_EXTRA {
            long = Fields(body);
        }
        extra = fields.0;
    }
    let mut out = [0; 3];
    for (out, short) in out.iter_mut().zip(short) {
        *out = if short == u32::MAX { long.u64()? } else { short.into() };
    }
    Some(out)
}

/// Sequence of little-endian numbers.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (out, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(out)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.bytes(n).map(drop)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
