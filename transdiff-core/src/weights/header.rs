//! The header of a safetensors file: `u64` length, JSON, and then the tensors without a gap.
//!
//! The crate `safetensors` owns the format's vocabulary and its rule that extents tile the data exactly. What it
//! does not do, it is done here: limit memory, and name the tensor that is wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use super::tensor_error;
use crate::{Error, Result};

/// The key of the header that is no tensor.
pub(super) const METADATA_KEY: &str = "__metadata__";
/// Headers of the largest checkpoints are below 1 MiB; parsed JSON takes many times its text.
const MAX_HEADER: u64 = 16 << 20;
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// What the header says, already checked against the length of the file.
pub(super) struct Header {
    pub metadata: BTreeMap<String, String>,
    /// In the order of the data, which has no gaps: reading on from the header meets them one by one.
    pub tensors: Vec<(String, TensorInfo)>,
}

/// Opens `path` and reads its header; the file is then positioned at the first tensor.
pub(super) fn open(path: &Path) -> Result<(File, Header)> {
    let about = std::fs::metadata(path).map_err(Error::io(path))?;
    if !about.is_file() {
        // Opening a pipe would wait for its writer.
        return Err(Error::format(path, "not a regular file"));
    }
    let mut file = File::open(path).map_err(Error::io(path))?;
    let text = read_text(&mut file, path, about.len())?;
    let header = parse(&text, path)?;
    check_extents(&header, path, about.len() - LENGTH_BYTES - text.len() as u64)?;
    Ok((file, header))
}

fn read_text(file: &mut File, path: &Path, file_len: u64) -> Result<Vec<u8>> {
    if file_len < LENGTH_BYTES {
        return Err(Error::format(path, format!("truncated: {file_len} bytes, not even a header length")));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        let message =
            format!("not a safetensors file: header of {length} bytes, at most {MAX_HEADER} allowed");
        return Err(Error::format(path, message));
    }
    if length > file_len - LENGTH_BYTES {
        return Err(Error::format(path, format!("truncated: header of {length} bytes in {file_len} bytes")));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(Error::io(path))?;
    Ok(text)
}

fn parse(text: &[u8], path: &Path) -> Result<Header> {
    let mut entries: BTreeMap<String, Value> = serde_json::from_slice(text)
        .map_err(|e| Error::format(path, format!("header is not a JSON object: {e}")))?;
    let metadata = entries.remove(METADATA_KEY).map_or_else(|| Ok(BTreeMap::new()), BTreeMap::deserialize);
    let metadata = metadata.map_err(|e| Error::format(path, format!("{METADATA_KEY} of the header: {e}")))?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let info = TensorInfo::deserialize(entry)
            .map_err(|e| tensor_error(path, &name, "a known type, a shape and two offsets", e))?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Ok(Header { metadata, tensors })
}

/// Every tensor has the bytes of its shape, and together they cover the rest of the file exactly once.
fn check_extents(header: &Header, path: &Path, data_len: u64) -> Result<()> {
    for (name, info) in &header.tensors {
        let (start, end) = info.data_offsets;
        let want = byte_len(info);
        if want.is_none() || end.checked_sub(start) != want {
            let expected = match want {
                Some(n) => format!("{n} bytes for {} {:?}", info.dtype, info.shape),
                None => "a shape whose size can be counted".to_owned(),
            };
            let got = format!("{:?} at offsets {start} to {end}", info.shape);
            return Err(tensor_error(path, name, expected, got));
        }
    }
    let tiled = Metadata::new(None, header.tensors.clone()).map_err(|e| match e {
        SafeTensorError::InvalidOffset(name) => {
            tensor_error(path, &name, "data right after the tensor before it", "a gap or an overlap")
        }
        e => Error::format(path, e.to_string()),
    })?;
    let want = tiled.data_len() as u64;
    if want != data_len {
        let fault = if want > data_len { "truncated" } else { "too long" };
        let message =
            format!("{fault}: the header describes {want} bytes of tensors, the file has {data_len}");
        return Err(Error::format(path, message));
    }
    Ok(())
}

/// None if the product overflows, or is no whole number of bytes.
fn byte_len(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
