//! Reading the tensors: decoded chunk by chunk from the file, so that memory holds one copy and a small buffer.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorInfo};

use super::{TensorFile, header, tensor_error};
use crate::{Error, HostData, HostTensor, Result};

/// Bytes read at once: large enough for the disk, small enough for the cache.
const CHUNK: usize = 1 << 18;

pub(super) fn read(path: &Path) -> Result<TensorFile> {
    let (mut file, header) = header::open(path)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors {
        let data = read_data(&mut file, path, &name, &info)?;
        check_finite(path, &name, &data)?;
        tensors.insert(name, HostTensor::new(&info.shape, data)?);
    }
    Ok(TensorFile { path: path.to_owned(), metadata: header.metadata, tensors })
}

fn read_data(file: &mut impl Read, path: &Path, name: &str, info: &TensorInfo) -> Result<HostData> {
    let n = info.shape.iter().product();
    let data = match info.dtype {
        Dtype::F32 => elements(file, n, f32::from_le_bytes).map(HostData::F32),
        Dtype::F64 => elements(file, n, f64::from_le_bytes).map(HostData::F64),
        Dtype::BF16 => elements(file, n, bf16::from_le_bytes).map(HostData::BF16),
        Dtype::F16 => elements(file, n, |bytes| f16::from_le_bytes(bytes).to_f32()).map(HostData::F32),
        Dtype::I32 => elements(file, n, i32::from_le_bytes).map(HostData::I32),
        Dtype::I64 => match elements(file, n, i64::from_le_bytes) {
            Ok(wide) => return narrow(path, name, &wide),
            Err(e) => Err(e),
        },
        other => return Err(tensor_error(path, name, "F32, F64, BF16, F16, I32 or I64 elements", other)),
    };
    data.map_err(Error::io(path))
}

/// The next `n` elements of `SIZE` bytes each.
fn elements<const SIZE: usize, T>(
    file: &mut impl Read,
    n: usize,
    decode: impl Fn([u8; SIZE]) -> T,
) -> io::Result<Vec<T>> {
    let mut out = Vec::new();
    // A sparse file may claim more than the machine has: that is an error, not an abort.
    out.try_reserve_exact(n)?;
    let mut chunk = vec![0; CHUNK.min(n * SIZE)];
    while out.len() < n {
        let bytes = CHUNK.min((n - out.len()) * SIZE);
        file.read_exact(&mut chunk[..bytes])?;
        let (whole, _) = chunk[..bytes].as_chunks::<SIZE>();
        out.extend(whole.iter().map(|&element| decode(element)));
    }
    Ok(out)
}

fn narrow(path: &Path, name: &str, wide: &[i64]) -> Result<HostData> {
    let narrowed: Result<Vec<i32>, i64> = wide.iter().map(|&x| i32::try_from(x).map_err(|_| x)).collect();
    narrowed.map(HostData::I32).map_err(|x| tensor_error(path, name, "integers that fit 32 bits", x))
}

fn check_finite(path: &Path, name: &str, data: &HostData) -> Result<()> {
    if data.is_finite() {
        return Ok(());
    }
    let found = data.to_f64().into_iter().enumerate().find(|(_, x)| !x.is_finite());
    let got = found.map_or_else(String::new, |(i, x)| format!("{x} at element {i}"));
    Err(tensor_error(path, name, "finite values", got))
}
