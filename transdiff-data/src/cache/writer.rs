//! Writing of a cache, shard by shard.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use half::bf16;
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::{DType, Error, Result, try_with_capacity};

use super::directory::CacheDirectory;
use super::entries::{self, CacheEntry, EntryList};
use super::header::{CacheHeader, CacheSpec, VERSION};
use super::part::Part;
use super::shard::{Shard, ShardContents, places};
use crate::lock::DirectoryLock;

/// Characters of the reason for leaving a picture out.
const REASON_CHARACTERS: usize = 400;

/// Writer of one part of a cache. Several processes write the parts of one cache without communication: shard `s` belongs
/// to part `s` modulo the number of parts.
///
/// ```no_run
/// # use transdiff_data::cache::{CacheEntry, CacheSpec, CacheWriter, Part, merge};
/// # fn encode(_: &CacheEntry) -> Result<Vec<f32>, String> { todo!() }
/// # fn run(spec: CacheSpec, entries: Vec<CacheEntry>) -> transdiff_core::Result<()> {
/// let writer = CacheWriter::open("cache", spec, entries, Part::WHOLE)?;
/// for shard in writer.unfinished()? {
///     let mut rows = writer.begin(shard)?;
///     while let Some(entry) = rows.expected() {
///         match encode(entry) {
///             Ok(latents) => rows.push(&latents)?,
///             Err(reason) => rows.skip(&reason)?,
///         }
///     }
///     rows.finish()?;
/// }
/// merge("cache")?;
/// # Ok(())
/// # }
/// ```
pub struct CacheWriter {
    cache: CacheDirectory,
    entries: Vec<CacheEntry>,
    part: Part,
    _lock: DirectoryLock,
}

impl CacheWriter {
    /// Begins part `part` of the cache of `entries` in the directory `path`, or continues it. Temporary files of killed
    /// processes are removed if no other process writes to the directory.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid `spec`; [`Error::Argument`] for a label without class, an empty or absolute path or
    /// no entry at all; [`Error::Format`] if the directory holds a cache of other pictures or with another header, which
    /// names the first difference; [`Error::Io`].
    pub fn open(
        path: impl AsRef<Path>,
        spec: CacheSpec,
        entries: Vec<CacheEntry>,
        part: Part,
    ) -> Result<Self> {
        let path = path.as_ref();
        check_entries(&spec, &entries)?;
        let entries_sha256 = entries::hash(&entries);
        let header = CacheHeader { version: VERSION, spec, entries: entries.len(), entries_sha256 };
        let cache = CacheDirectory::new(path, header)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = DirectoryLock::acquire(path, &[])?;
        match CacheDirectory::read(path)? {
            Some(known) => {
                if let Some((name, got, expected)) = known.header.difference(&cache.header) {
                    let message = format!(
                        "holds another cache: {name} is {got}, expected {expected}; choose another directory"
                    );
                    return Err(Error::format(path, message));
                }
                // Equal but for the name of the codec's file: shards carry the hash of the first header.
                return Ok(Self { cache: known, entries, part, _lock: lock });
            }
            None => {
                let listed = entries.iter().map(|entry| (entry.path.as_str(), entry.label));
                let metadata = [cache.mark()].into();
                write_atomic(cache.entries_path(), entries::tensors(listed), &metadata)?;
                cache.write_header()?;
            }
        }
        Ok(Self { cache, entries, part, _lock: lock })
    }

    /// Header of the cache.
    pub fn header(&self) -> &CacheHeader {
        &self.cache.header
    }

    /// Entries of the cache, those of other parts included.
    pub fn entries(&self) -> &[CacheEntry] {
        &self.entries
    }

    /// Number of entries of this part.
    pub fn part_entries(&self) -> usize {
        let header = &self.cache.header;
        self.part.shards(header.shards()).map(|number| places(header, number).len()).sum()
    }

    /// Shards of this part that are not finished: missing ones, and those whose file is incomplete or inconsistent.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn unfinished(&self) -> Result<Vec<usize>> {
        let mut out = Vec::new();
        for number in self.part.shards(self.cache.header.shards()) {
            if finished(&self.cache, number)?.is_err() {
                out.push(number);
            }
        }
        Ok(out)
    }

    /// Begins shard `number`, one of [`unfinished`](Self::unfinished). Its rows are held in memory until it is finished.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such shard in this part; [`Error::OutOfMemory`].
    pub fn begin(&self, number: usize) -> Result<ShardRows<'_>> {
        let header = &self.cache.header;
        if number >= header.shards() || number % self.part.count() != self.part.index() {
            let expected = format!("a shard of part {} of {} shards", self.part, header.shards());
            return Err(Error::argument("shard", expected, number));
        }
        let places = places(header, number);
        let spec = &header.spec;
        let row_bytes = spec.variants() * spec.variant_elements() * spec.dtype.size();
        let latents = try_with_capacity("CacheWriter::begin", places.len().saturating_mul(row_bytes))?;
        let (first, entries) = (places.start, &self.entries[places]);
        let contents = ShardContents::default();
        Ok(ShardRows { cache: &self.cache, number, first, entries, done: 0, latents, contents })
    }
}

fn check_entries(spec: &CacheSpec, entries: &[CacheEntry]) -> Result<()> {
    if entries.is_empty() || u32::try_from(entries.len()).is_err() {
        return Err(Error::argument("entries", "1 to 2^32 - 1 pictures", entries.len()));
    }
    let classes = spec.images.classes.len();
    for entry in entries {
        if entry.path.is_empty() || entry.path.starts_with('/') {
            return Err(Error::argument("entries", "relative paths", entries::shown(&entry.path)));
        }
        if classes > 0 && entry.label as usize >= classes {
            let got = format!("{} of {}", entry.label, entries::shown(&entry.path));
            return Err(Error::argument("entries", format!("labels below {classes}"), got));
        }
    }
    Ok(())
}

/// Opens shard `number` and reads its contents; the inner error says in which way it is not finished.
pub(super) fn finished(cache: &CacheDirectory, number: usize) -> Result<Result<ShardContents>> {
    let read = Shard::open(cache, number).and_then(|shard| shard.contents(places(&cache.header, number)));
    match read {
        Err(Error::Io { path, source })
            if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) =>
        {
            Err(Error::Io { path, source })
        }
        Err(Error::OutOfMemory { op, bytes, free }) => Err(Error::OutOfMemory { op, bytes, free }),
        read => Ok(read),
    }
}

/// Rows of a shard, taken in the order of its entries.
pub struct ShardRows<'a> {
    cache: &'a CacheDirectory,
    number: usize,
    /// Place of the shard's first entry among all.
    first: usize,
    entries: &'a [CacheEntry],
    /// Entries that have been stored or left out.
    done: usize,
    latents: Vec<u8>,
    contents: ShardContents,
}

impl<'a> ShardRows<'a> {
    /// Entries of the shard.
    pub fn entries(&self) -> &'a [CacheEntry] {
        self.entries
    }

    /// The entry whose latents are expected next; `None` after the last.
    pub fn expected(&self) -> Option<&'a CacheEntry> {
        self.entries.get(self.done)
    }

    /// Stores the next entry: `values` are its moments or latents [variants, 2C or C, h, w], those of the image before those
    /// of its mirror image.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of values; [`Error::Argument`] if one is not finite in the stored type, or if
    /// there is no entry left.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let place = self.next_place()?;
        let spec = &self.cache.header.spec;
        let (shape, elements) = (spec.stored_shape(), spec.variant_elements());
        if values.len() != spec.variants() * elements {
            let expected = format!("{} values", super::header::shape_text(&shape));
            return Err(Error::shape("ShardRows::push", expected, &[values.len()]));
        }
        let start = self.latents.len();
        match spec.dtype {
            DType::BF16 => {
                self.latents.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
            }
            _ => self.latents.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        }
        let is_finite = |x: &f32| match spec.dtype {
            DType::BF16 => bf16::from_f32(*x).is_finite(),
            _ => x.is_finite(),
        };
        if let Some(value) = values.iter().find(|x| !is_finite(x)) {
            self.latents.truncate(start);
            let path = entries::shown(&self.entries[self.done].path);
            let expected = format!("finite {} of {path} in {}", spec.items.name(), spec.dtype);
            return Err(Error::argument("values", expected, value));
        }
        let variants = self.latents[start..].chunks_exact(elements * spec.dtype.size());
        self.contents.checksums.extend(variants.map(crc32fast::hash));
        self.contents.entries.push(place);
        self.done += 1;
        Ok(())
    }

    /// Leaves the next entry out, a broken picture, and records the reason.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no entry left.
    pub fn skip(&mut self, reason: &str) -> Result<()> {
        let place = self.next_place()?;
        let reason = transdiff_core::text::shortened(reason, REASON_CHARACTERS);
        self.contents.skipped.push((place, reason));
        self.done += 1;
        Ok(())
    }

    /// Writes the shard. An index that [`merge`](super::merge) has written is removed first: it holds the checksums of the
    /// file that is replaced.
    ///
    /// # Errors
    /// [`Error::Argument`] if entries are left; [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        if self.done != self.entries.len() {
            let expected = format!("{} entries of shard {}", self.entries.len(), self.number);
            return Err(Error::argument("rows", expected, self.done));
        }
        let index = self.cache.index_path();
        match fs::remove_file(&index) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(index)(error)),
            _ => {}
        }
        self.contents.write(self.cache, self.number, self.latents)
    }

    fn next_place(&self) -> Result<u32> {
        if self.done == self.entries.len() {
            let expected = format!("{} entries of shard {}", self.entries.len(), self.number);
            return Err(Error::argument("rows", expected, self.done + 1));
        }
        Ok((self.first + self.done) as u32)
    }
}

/// Reads the list of all entries of a cache, and checks it against the header.
pub(super) fn read_entries(cache: &CacheDirectory) -> Result<Vec<CacheEntry>> {
    let file = WeightFile::open(cache.entries_path())?;
    cache.check_mark(&file)?;
    let entries = EntryList::new(file)?.read(cache.header.spec.images.classes.len())?;
    if entries.len() != cache.header.entries || entries::hash(&entries) != cache.header.entries_sha256 {
        let message = "damaged: not the paths and labels that cache.json describes";
        return Err(Error::format(cache.entries_path(), message));
    }
    Ok(entries)
}
