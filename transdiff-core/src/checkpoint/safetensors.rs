//! Reader of safetensors headers: a `u64` length, JSON, and then the tensors without gaps.
//!
//! Element types come from the crate `safetensors`. The header itself is parsed here, entry by entry, so that memory
//! stays proportional to the file and errors name the invalid tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ::safetensors::tensor::Dtype;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::allocation_limit::AllocationLimit;
use super::byte_reader::ByteReader;
use super::contents::Contents;
use super::entry::{self, Entry, MAX_RANK};
use super::errors::{read_error, tensor_error};
use super::{format_version, json};
use crate::{Error, Result};

/// Key of the header's metadata; every other key names a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";
/// Bytes that a header may have, as in the reference implementation of the format. Those of the largest models have less
/// than 1 MiB, but metadata may hold the log of a training run.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes that the JSON text of a tensor's name may have, and that of its description.
const MAX_ENTRY_BYTES: usize = 1 << 16;
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// Reads the header and checks it against the length of the file.
pub(super) fn read(reader: &ByteReader, path: &Path, limit: &mut AllocationLimit) -> Result<Contents> {
    let len = header_len(reader, path)?;
    let text = reader.slice(LENGTH_BYTES, len).map_err(read_error(path, "header".to_owned(), len))?;
    limit.raise_for_read(len);
    let mut header = parse(&text, limit, path)?;
    drop(text);
    let format_version = format_version::take(&mut header.metadata, path)?;
    let data = LENGTH_BYTES + len;
    check_extents(&header.tensors, path, reader.len() - data)?;
    let entries = header.tensors.into_iter().map(|(name, info)| (name, info.entry(data))).collect();
    Ok(Contents { format_version, metadata: header.metadata, entries, ..Contents::default() })
}

fn header_len(reader: &ByteReader, path: &Path) -> Result<u64> {
    let file = reader.len();
    let mut start = [0; LENGTH_BYTES as usize + 1];
    if file < LENGTH_BYTES {
        return Err(Error::format(
            path,
            format!("truncated: expected at least {LENGTH_BYTES} bytes, got {file}"),
        ));
    }
    let known = &mut start[..file.min(LENGTH_BYTES + 1) as usize];
    reader.read(0, known).map_err(Error::io(path))?;
    let [length @ .., first] = start;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        let message = match first {
            b'{' => format!("its header has {length} bytes, at most {MAX_HEADER_BYTES} are allowed"),
            _ => format!(
                "neither a safetensors file nor a PyTorch checkpoint; it begins with the bytes {}",
                first_bytes(&start)
            ),
        };
        return Err(Error::format(path, message));
    }
    if length > file - LENGTH_BYTES {
        return Err(Error::format(
            path,
            format!("truncated: a header of {length} bytes in a file of {file} bytes"),
        ));
    }
    Ok(length)
}

/// Bytes in hexadecimal, and as text if they are.
fn first_bytes(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
    text.map_or_else(|| hex.join(" "), |text| format!("{} (\"{text}\")", hex.join(" ")))
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Info>,
}

fn parse(text: &[u8], limit: &mut AllocationLimit, path: &Path) -> Result<Header> {
    let not_json = |problem: String| Error::format(path, format!("header is not a JSON object: {problem}"));
    json::check_depth(text).map_err(not_json)?;
    let header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new() };
    let mut reader = HeaderReader { header, limit, path, has_metadata: false };
    json::for_each_item(text, "an object of tensors", |key, value| reader.insert(key, value), not_json)?;
    Ok(reader.header)
}

struct HeaderReader<'a> {
    header: Header,
    limit: &'a mut AllocationLimit,
    path: &'a Path,
    has_metadata: bool,
}

impl HeaderReader<'_> {
    /// Inserts an entry, given by the JSON text of key and value.
    fn insert(&mut self, key: &str, value: &str) -> Result<()> {
        let error = |message: String| Error::format(self.path, format!("header: {message}"));
        if key.len() > MAX_ENTRY_BYTES {
            let len = key.len();
            return Err(error(format!(
                "the name of a tensor has {len} bytes, at most {MAX_ENTRY_BYTES} are allowed"
            )));
        }
        let name: String = serde_json::from_str(key).map_err(|e| error(e.to_string()))?;
        if name == METADATA_KEY {
            if std::mem::replace(&mut self.has_metadata, true) {
                return Err(error(format!("duplicate key {METADATA_KEY}")));
            }
            let metadata = json::string_map(value, self.limit);
            self.header.metadata = metadata.map_err(|e| error(format!("{METADATA_KEY}: {e}")))?;
            return Ok(());
        }
        entry::reserve(self.limit, &name).map_err(error)?;
        if self.header.tensors.contains_key(&name) {
            return Err(error(format!("duplicate tensor {name}")));
        }
        let info = self.info(&name, value)?;
        self.header.tensors.insert(name, info);
        Ok(())
    }

    fn info(&self, name: &str, text: &str) -> Result<Info> {
        if text.len() > MAX_ENTRY_BYTES {
            let expected = format!("a description of at most {MAX_ENTRY_BYTES} bytes");
            return Err(tensor_error(self.path, name, expected, format!("{} bytes", text.len())));
        }
        let expected = "a known element type, a shape and two offsets";
        serde_json::from_str(text).map_err(|e| tensor_error(self.path, name, expected, e))
    }
}

/// Header entry of a tensor.
#[derive(Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Info {
    fn entry(self, data: u64) -> Entry {
        let (start, _) = self.data_offsets;
        Entry::contiguous(self.dtype, self.shape.0, data + start)
    }
}

/// Size per axis, at most [`MAX_RANK`] of them.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_RANK} sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut axes: A) -> Result<Shape, A::Error> {
                let mut out = Vec::new();
                while let Some(size) = axes.next_element()? {
                    if out.len() == MAX_RANK {
                        return Err(de::Error::invalid_length(MAX_RANK + 1, &self));
                    }
                    out.push(size);
                }
                Ok(Shape(out))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}

/// Checks that every tensor has as many bytes as its shape needs, and that together they cover the rest of the file
/// exactly once.
fn check_extents(tensors: &BTreeMap<String, Info>, path: &Path, data_len: u64) -> Result<()> {
    let mut in_order: Vec<(&String, &Info)> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut covered = 0;
    for (name, info) in in_order {
        let (start, end) = info.data_offsets;
        let expected_len = byte_len(info);
        if expected_len.is_none() || end.checked_sub(start) != expected_len {
            let expected = match expected_len {
                Some(n) => format!("{n} bytes for {} {:?}", info.dtype, info.shape.0),
                None => "a shape whose number of elements does not overflow".to_owned(),
            };
            let got = format!("{:?} at offsets {start} to {end}", info.shape.0);
            return Err(tensor_error(path, name, expected, got));
        }
        if start != covered {
            return Err(tensor_error(
                path,
                name,
                "data right after the previous tensor",
                "a gap or an overlap",
            ));
        }
        covered = end;
    }
    if covered != data_len {
        let problem = if covered > data_len { "truncated" } else { "too long" };
        let message =
            format!("{problem}: the header describes {covered} bytes of tensors, the file has {data_len}");
        return Err(Error::format(path, message));
    }
    Ok(())
}

/// Number of bytes of a tensor; `None` if the product overflows or is not a whole number of bytes.
fn byte_len(info: &Info) -> Option<u64> {
    let elements = info.shape.0.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some((bits / 8) as u64)
}
