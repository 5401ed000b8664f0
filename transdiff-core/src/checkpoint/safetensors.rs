//! Reader of safetensors headers: a `u64` length, JSON, and then the tensors without gaps.
//!
//! Element types come from the crate `safetensors`. The header itself is parsed here, entry by entry, so that memory
//! stays proportional to the file and errors name the invalid tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ::safetensors::tensor::Dtype;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::allocation_limit::AllocationLimit;
use super::byte_reader::ByteReader;
use super::contents::Contents;
use super::entry::{self, Entry, MAX_RANK};
use super::errors::{read_error, tensor_error};
use crate::{Error, Result};

/// Key of the header's metadata; every other key names a tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";
/// Bytes that a header may have. Those of the largest checkpoints have less than 1 MiB.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// Bytes that a metadata entry takes, apart from its strings.
const METADATA_ENTRY_BYTES: usize = 256;
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// Reads the header and checks it against the length of the file.
pub(super) fn read(reader: &ByteReader, path: &Path) -> Result<Contents> {
    let len = header_len(reader, path)?;
    let text = reader.slice(LENGTH_BYTES, len).map_err(read_error(path, "header".to_owned(), len))?;
    let header = parse(&text, AllocationLimit::for_file(reader.len()), path)?;
    drop(text);
    let data = LENGTH_BYTES + len;
    check_extents(&header.tensors, path, reader.len() - data)?;
    let entries = header.tensors.into_iter().map(|(name, info)| (name, info.entry(data))).collect();
    Ok(Contents { metadata: header.metadata, entries, values: serde_json::Map::new() })
}

fn header_len(reader: &ByteReader, path: &Path) -> Result<u64> {
    let file = reader.len();
    let mut length = [0; LENGTH_BYTES as usize];
    if file < LENGTH_BYTES {
        return Err(Error::format(
            path,
            format!("truncated: expected at least {LENGTH_BYTES} bytes, got {file}"),
        ));
    }
    reader.read(0, &mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        let message = format!(
            "neither a safetensors file nor a PyTorch checkpoint: read as safetensors, its header would have {length} \
             bytes, at most {MAX_HEADER_BYTES} are allowed"
        );
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

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Info>,
    limit: AllocationLimit,
}

fn parse(text: &[u8], limit: AllocationLimit, path: &Path) -> Result<Header> {
    let mut header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new(), limit };
    let mut location = None;
    let mut json = serde_json::Deserializer::from_slice(text);
    let done = (&mut json).deserialize_map(HeaderVisitor { header: &mut header, location: &mut location });
    match (done.and_then(|()| json.end()), location) {
        (Ok(()), _) => Ok(header),
        (Err(e), Some(Location::Tensor(name))) if e.is_data() => {
            Err(tensor_error(path, &name, "a known element type, a shape and two offsets", e))
        }
        (Err(e), Some(Location::Header)) if e.is_data() => Err(Error::format(path, format!("header: {e}"))),
        (Err(e), Some(Location::Metadata)) if e.is_data() => {
            Err(Error::format(path, format!("header: {METADATA_KEY}: {e}")))
        }
        (Err(e), _) => Err(Error::format(path, format!("header is not a JSON object: {e}"))),
    }
}

/// Part of the header that an error is about, where the JSON itself is well-formed.
enum Location {
    Tensor(String),
    Metadata,
    Header,
}

struct HeaderVisitor<'a> {
    header: &'a mut Header,
    location: &'a mut Option<Location>,
}

impl HeaderVisitor<'_> {
    fn error<E: de::Error>(&mut self, message: String) -> E {
        *self.location = Some(Location::Header);
        E::custom(message)
    }
}

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                if std::mem::replace(&mut metadata, true) {
                    return Err(self.error(format!("duplicate key {METADATA_KEY}")));
                }
                *self.location = Some(Location::Metadata);
                self.header.metadata = map.next_value_seed(Metadata { limit: &mut self.header.limit })?;
            } else {
                entry::reserve(&mut self.header.limit, &name).map_err(|message| self.error(message))?;
                if self.header.tensors.contains_key(&name) {
                    return Err(self.error(format!("duplicate tensor {name}")));
                }
                *self.location = Some(Location::Tensor(name));
                let info = map.next_value()?;
                let Some(Location::Tensor(name)) = self.location.take() else { unreachable!("set above") };
                self.header.tensors.insert(name, info);
            }
            *self.location = None;
        }
        Ok(())
    }
}

/// Deserialiser of the metadata: a map from distinct strings to strings.
struct Metadata<'a> {
    limit: &'a mut AllocationLimit,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            self.limit
                .reserve_bytes(METADATA_ENTRY_BYTES + key.len() + value.len())
                .map_err(de::Error::custom)?;
            if let Some(key) = out.insert(key.clone(), value).map(|_| key) {
                return Err(de::Error::custom(format!("duplicate key {key}")));
            }
        }
        Ok(out)
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
