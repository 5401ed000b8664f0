//! The header of a safetensors file: `u64` length, JSON, and then the tensors without a gap.
//!
//! The crate `safetensors` owns the format's vocabulary of types. The header itself is read here, entry by entry:
//! memory stays in proportion to the file, and errors name the tensor that is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ::safetensors::tensor::Dtype;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::budget::Budget;
use super::entry::{self, Entry, Extent, MAX_RANK};
use super::source::Source;
use super::{Contents, read_error, tensor_error};
use crate::{Error, Result};

/// The key of the header that is no tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";
/// Headers of the largest checkpoints are below 1 MiB.
const MAX_HEADER: u64 = 4 << 20;
/// Bytes that an entry of the metadata takes beside its strings.
const METADATA_BYTES: usize = 256;
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// Reads the header, and checks it against the length of the file.
pub(super) fn read(source: &Source, path: &Path) -> Result<Contents> {
    let len = header_len(source, path)?;
    let text = source.slice(LENGTH_BYTES, len).map_err(read_error(path, "header".to_owned(), len))?;
    let header = parse(&text, Budget::of_file(source.len()), path)?;
    drop(text);
    let data = LENGTH_BYTES + len;
    check_extents(&header.tensors, path, source.len() - data)?;
    let entries = header.tensors.into_iter().map(|(name, info)| (name, info.entry(data))).collect();
    Ok(Contents { metadata: header.metadata, entries, values: serde_json::Map::new() })
}

fn header_len(source: &Source, path: &Path) -> Result<u64> {
    let file = source.len();
    let mut length = [0; LENGTH_BYTES as usize];
    if file < LENGTH_BYTES {
        return Err(Error::format(path, format!("truncated: {file} bytes, not even a header length")));
    }
    source.read(0, &mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        let message = format!(
            "neither a safetensors file nor a PyTorch checkpoint: as safetensors, its header has {length} bytes; at most {MAX_HEADER} are allowed"
        );
        return Err(Error::format(path, message));
    }
    if length > file - LENGTH_BYTES {
        return Err(Error::format(path, format!("truncated: header of {length} bytes in {file} bytes")));
    }
    Ok(length)
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Info>,
    budget: Budget,
}

fn parse(text: &[u8], budget: Budget, path: &Path) -> Result<Header> {
    let mut header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new(), budget };
    let mut fault = None;
    let mut json = serde_json::Deserializer::from_slice(text);
    let done = (&mut json).deserialize_map(HeaderVisitor { header: &mut header, fault: &mut fault });
    match (done.and_then(|()| json.end()), fault) {
        (Ok(()), _) => Ok(header),
        (Err(e), Some(Fault::Tensor(name))) if e.is_data() => {
            Err(tensor_error(path, &name, "a known type, a shape and two offsets", e))
        }
        (Err(e), Some(Fault::Header)) if e.is_data() => Err(Error::format(path, format!("header: {e}"))),
        (Err(e), Some(Fault::Metadata)) if e.is_data() => {
            Err(Error::format(path, format!("header: {METADATA_KEY}: {e}")))
        }
        (Err(e), _) => Err(Error::format(path, format!("header is not a JSON object: {e}"))),
    }
}

/// What is wrong, where it is not the JSON.
enum Fault {
    Tensor(String),
    Metadata,
    Header,
}

struct HeaderVisitor<'a> {
    header: &'a mut Header,
    fault: &'a mut Option<Fault>,
}

impl HeaderVisitor<'_> {
    fn refuse<E: de::Error>(&mut self, message: String) -> E {
        *self.fault = Some(Fault::Header);
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
                    return Err(self.refuse(format!("{METADATA_KEY} comes twice")));
                }
                *self.fault = Some(Fault::Metadata);
                self.header.metadata = map.next_value_seed(Metadata { budget: &mut self.header.budget })?;
            } else {
                entry::charge(&mut self.header.budget, &name).map_err(|message| self.refuse(message))?;
                if self.header.tensors.contains_key(&name) {
                    return Err(self.refuse(format!("tensor {name} comes twice")));
                }
                *self.fault = Some(Fault::Tensor(name));
                let info = map.next_value()?;
                let Some(Fault::Tensor(name)) = self.fault.take() else { unreachable!("set above") };
                self.header.tensors.insert(name, info);
            }
            *self.fault = None;
        }
        Ok(())
    }
}

/// The metadata: strings by distinct strings.
struct Metadata<'a> {
    budget: &'a mut Budget,
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
            self.budget.take_bytes(METADATA_BYTES + key.len() + value.len()).map_err(de::Error::custom)?;
            if let Some(key) = out.insert(key.clone(), value).map(|_| key) {
                return Err(de::Error::custom(format!("{key} comes twice")));
            }
        }
        Ok(out)
    }
}

/// What the header says of a tensor.
#[derive(Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Info {
    fn entry(self, data: u64) -> Entry {
        let (start, _) = self.data_offsets;
        Entry { dtype: self.dtype, shape: self.shape.0, extent: Extent::Contiguous(data + start) }
    }
}

/// Sizes of axes, not many.
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

/// Every tensor has the bytes of its shape, and together they cover the rest of the file exactly once.
fn check_extents(tensors: &BTreeMap<String, Info>, path: &Path, data_len: u64) -> Result<()> {
    let mut in_order: Vec<(&String, &Info)> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut covered = 0;
    for (name, info) in in_order {
        let (start, end) = info.data_offsets;
        let want = byte_len(info);
        if want.is_none() || end.checked_sub(start) != want {
            let expected = match want {
                Some(n) => format!("{n} bytes for {} {:?}", info.dtype, info.shape.0),
                None => "a shape whose size can be counted".to_owned(),
            };
            let got = format!("{:?} at offsets {start} to {end}", info.shape.0);
            return Err(tensor_error(path, name, expected, got));
        }
        if start != covered {
            return Err(tensor_error(
                path,
                name,
                "data right after the tensor before it",
                "a gap or an overlap",
            ));
        }
        covered = end;
    }
    if covered != data_len {
        let fault = if covered > data_len { "truncated" } else { "too long" };
        let message =
            format!("{fault}: the header describes {covered} bytes of tensors, the file has {data_len}");
        return Err(Error::format(path, message));
    }
    Ok(())
}

/// None if the product overflows, or is no whole number of bytes.
fn byte_len(info: &Info) -> Option<u64> {
    let elements = info.shape.0.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some((bits / 8) as u64)
}
