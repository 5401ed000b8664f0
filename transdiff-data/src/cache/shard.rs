//! Shard of a cache: the latents of consecutive pictures, with their places, checksums, and the pictures left out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use transdiff_core::checkpoint::{StoredDType, WeightFile, write_atomic};
use transdiff_core::{DType, Error, Result};

use super::directory::CacheDirectory;
use super::header::CacheHeader;
use super::raw_tensor::{RawTensor, expect, read_text, read_words, tensor_error};

const ENTRIES: &str = "entries";
const CHECKSUMS: &str = "checksums";
const SKIPPED: &str = "skipped";
/// Metadata key of the number of the shard.
const NUMBER: &str = "transdiff.shard";

/// Contents of a shard, apart from the latents.
#[derive(Default)]
pub(super) struct ShardContents {
    /// Places of the stored pictures among all.
    pub entries: Vec<u32>,
    /// CRC-32 of each variant of each picture.
    pub checksums: Vec<u32>,
    /// Places of the pictures that were left out, and the reasons.
    pub skipped: Vec<(u32, String)>,
}

impl ShardContents {
    /// Writes shard `number` with the encoded latents `latents`.
    pub fn write(self, cache: &CacheDirectory, number: usize, latents: Vec<u8>) -> Result<()> {
        let spec = &cache.header.spec;
        let (rows, [variants, c, h, w]) = (self.entries.len(), spec.stored_shape());
        let dtype = stored_dtype(spec.dtype);
        let skipped = serde_json::to_string(&self.skipped).expect("strings can be written as JSON");
        let tensors = [
            (spec.items.name(), RawTensor { dtype, shape: vec![rows, variants, c, h, w], bytes: latents }),
            (ENTRIES, RawTensor::words(&[rows], self.entries)),
            (CHECKSUMS, RawTensor::words(&[rows, variants], self.checksums)),
            (SKIPPED, RawTensor::text(skipped)),
        ];
        let metadata = BTreeMap::from([cache.mark(), (NUMBER.to_owned(), number.to_string())]);
        write_atomic(cache.shard_path(number), tensors, &metadata)
    }
}

/// Places of the pictures of shard `number`.
pub(super) fn places(header: &CacheHeader, number: usize) -> Range<usize> {
    let start = number * header.spec.shard_entries;
    start..(start + header.spec.shard_entries).min(header.entries)
}

/// Element type in shards.
fn stored_dtype(dtype: DType) -> StoredDType {
    match dtype {
        DType::BF16 => StoredDType::BF16,
        _ => StoredDType::F32,
    }
}

/// An open shard.
#[derive(Debug)]
pub(super) struct Shard {
    file: WeightFile,
    rows: usize,
    variants: usize,
    /// Elements of a variant of a row.
    elements: usize,
    tensor: &'static str,
}

impl Shard {
    /// Opens shard `number`. Its header and length are checked, not its latents.
    ///
    /// # Errors
    /// Those of [`WeightFile::open`]; [`Error::Format`] if it is a shard of another cache or another shard;
    /// [`Error::Tensor`] or [`Error::TensorNames`] if its tensors have other types or shapes.
    pub fn open(cache: &CacheDirectory, number: usize) -> Result<Self> {
        let file = WeightFile::open(cache.shard_path(number))?;
        cache.check_mark(&file)?;
        if file.metadata().get(NUMBER) != Some(&number.to_string()) {
            let got = file.metadata().get(NUMBER).map_or("no number", String::as_str);
            return Err(Error::format(file.path(), format!("expected shard {number}, got {got}")));
        }
        let spec = &cache.header.spec;
        let [variants, c, h, w] = spec.stored_shape();
        let tensor = spec.items.name();
        let shape = [None, Some(variants), Some(c), Some(h), Some(w)];
        let [rows, ..] = expect(&file, tensor, stored_dtype(spec.dtype), shape)?;
        expect(&file, ENTRIES, StoredDType::U32, [Some(rows)])?;
        expect(&file, CHECKSUMS, StoredDType::U32, [Some(rows), Some(variants)])?;
        Ok(Self { file, rows, variants, elements: spec.variant_elements(), tensor })
    }

    /// Reads everything but the latents, and checks that each of the pictures `places` is stored or left out.
    pub fn contents(&self, places: Range<usize>) -> Result<ShardContents> {
        let entries = read_words(&self.file, ENTRIES, self.rows)?;
        let checksums = read_words(&self.file, CHECKSUMS, self.rows * self.variants)?;
        let skipped = serde_json::from_str::<Vec<(u32, String)>>(&read_text(&self.file, SKIPPED)?)
            .map_err(|error| tensor_error(&self.file, SKIPPED, "a JSON list of places and reasons", error))?;
        let mut all: Vec<usize> =
            entries.iter().copied().chain(skipped.iter().map(|(at, _)| *at)).map(|at| at as usize).collect();
        all.sort_unstable();
        let ascending = entries.is_sorted_by(|a, b| a < b);
        if !ascending || !all.iter().copied().eq(places.clone()) {
            let expected = format!("each of the pictures {} to {} once", places.start, places.end);
            return Err(tensor_error(&self.file, ENTRIES, expected, "others"));
        }
        Ok(ShardContents { entries, checksums, skipped })
    }

    /// Reads the bytes of variant `variant` of row `row`, and compares them with their checksum.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they have another checksum or the row is not there; those of reading. `entry` is what errors
    /// call the row.
    pub fn read(
        &self,
        row: usize,
        variant: usize,
        checksum: u32,
        entry: impl Fn() -> String,
    ) -> Result<Cow<'_, [u8]>> {
        if row >= self.rows {
            let got = format!("row {row} for {}", entry());
            return Err(tensor_error(&self.file, self.tensor, format!("a row below {}", self.rows), got));
        }
        let start = (row * self.variants + variant) * self.elements;
        let bytes = self.file.stored_bytes(self.tensor, start..start + self.elements)?;
        let actual = crc32fast::hash(&bytes);
        if actual != checksum {
            let expected = format!("checksum {checksum:08x} of row {row}, {}", entry());
            return Err(tensor_error(
                &self.file,
                self.tensor,
                expected,
                format!(
                    "{actual:08x}: it is damaged; remove the file and make the cache again, which keeps the others"
                ),
            ));
        }
        Ok(bytes)
    }

    /// Error about the values of row `row`, called `entry`.
    pub fn invalid_value(&self, row: usize, entry: &str) -> Error {
        tensor_error(&self.file, self.tensor, "finite values", format!("others in row {row}, {entry}"))
    }
}
