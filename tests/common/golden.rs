//! Golden files: recorded inputs and outputs of the published implementation, as safetensors with the
//! configuration in the metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use safetensors::{Dtype, SafeTensors};
use transdiff_core::{HostData, HostTensor, bf16};

/// Folder of the files: `TRANSDIFF_GOLDEN`, or `tests/golden` in the manifest's folder or, if the test runs away from
/// its source, in the working directory.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("TRANSDIFF_GOLDEN") {
        return folder.into();
    }
    let at_source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if at_source.is_dir() { at_source } else { "tests/golden".into() }
}

/// Returns whether the golden file `path` exists. The files of the project do; a folder given by `TRANSDIFF_GOLDEN` may
/// lack some, which is reported in a line.
pub fn exists(path: &Path) -> bool {
    if path.exists() {
        return true;
    }
    assert!(std::env::var_os("TRANSDIFF_GOLDEN").is_some(), "{} does not exist", path.display());
    eprintln!("skipped: {} does not exist", path.display());
    false
}

/// A golden file, read completely.
pub struct Golden {
    path: PathBuf,
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    /// Reads `NAME.safetensors`, which must exist and be valid.
    pub fn load(name: &str) -> Self {
        Self::find(name).unwrap_or_else(|| panic!("{name}.safetensors is not in {}", folder().display()))
    }

    /// Like [`load`](Self::load), or `None` (reported in a line) if a folder given by `TRANSDIFF_GOLDEN` lacks the file.
    pub fn find(name: &str) -> Option<Self> {
        let path = folder().join(name).with_extension("safetensors");
        if !exists(&path) {
            return None;
        }
        let fail = |reason: &dyn std::fmt::Display| -> ! { panic!("{}: {reason}", path.display()) };
        let bytes = std::fs::read(&path).unwrap_or_else(|e| fail(&e));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| fail(&e));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| fail(&e));
        let tensors = file.iter().map(|(name, view)| {
            let data = decode(view.dtype(), view.data()).unwrap_or_else(|e| fail(&format!("{name}: {e}")));
            (name.to_owned(), HostTensor::new(view.shape(), data).unwrap_or_else(|e| fail(&e)))
        });
        let tensors = tensors.collect();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Some(Self { path, tensors, metadata })
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> &HostTensor {
        self.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.path.display()))
    }

    /// The tensor `name`, if it exists.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// The tensors whose names begin with `prefix`, which is stripped from their names.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a HostTensor)> {
        self.tensors.iter().filter_map(move |(name, t)| Some((name.strip_prefix(prefix)?, t)))
    }

    /// The metadata value of `key`.
    pub fn text(&self, key: &str) -> &str {
        let value = self.metadata.get(key);
        value.unwrap_or_else(|| panic!("{}: no metadata {key}", self.path.display()))
    }

    /// The metadata value of `key`, parsed.
    pub fn value<T: FromStr>(&self, key: &str) -> T {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{}: metadata {key}={text}", self.path.display()))
    }

    /// The metadata value of `key`, as JSON.
    pub fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(self.text(key))
            .unwrap_or_else(|e| panic!("{}: metadata {key}: {e}", self.path.display()))
    }
}

/// Decodes little-endian elements. 64-bit integers must fit in 32 bits; bytes and booleans become integers.
fn decode(dtype: Dtype, bytes: &[u8]) -> Result<HostData, String> {
    fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.chunks_exact(N).map(|c| f(c.try_into().expect("a chunk has N bytes"))).collect()
    }
    Ok(match dtype {
        Dtype::F32 => HostData::F32(each(bytes, f32::from_le_bytes)),
        Dtype::F64 => HostData::F64(each(bytes, f64::from_le_bytes)),
        Dtype::BF16 => HostData::BF16(each(bytes, bf16::from_le_bytes)),
        Dtype::I32 => HostData::I32(each(bytes, i32::from_le_bytes)),
        Dtype::I64 => {
            let wide = each(bytes, i64::from_le_bytes).into_iter().map(i32::try_from);
            HostData::I32(wide.collect::<Result<_, _>>().map_err(|e| e.to_string())?)
        }
        Dtype::U8 | Dtype::BOOL => HostData::I32(bytes.iter().map(|&b| i32::from(b)).collect()),
        other => return Err(format!("element type {other:?} is not expected in a golden file")),
    })
}

/// Relative error ‖out − reference‖ / ‖reference‖, in f64; infinite for NaN, and for any difference from zero.
pub fn relative_error(out: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(out.len(), reference.len(), "numbers of elements differ");
    let difference: f64 = out.iter().zip(reference).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = reference.iter().map(|b| b * b).sum();
    match (difference / norm).sqrt() {
        _ if difference == 0.0 => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error,
    }
}

/// Panics, naming `what`, unless shapes are equal and the relative error is at most `limit`. Returns the error.
pub fn assert_close(what: &str, out: &HostTensor, reference: &HostTensor, limit: f64) -> f64 {
    assert_eq!(out.shape(), reference.shape(), "{what}: shapes differ");
    let error = relative_error(&out.to_f64(), &reference.to_f64());
    assert!(error <= limit, "{what}: relative error {error:.3e}, at most {limit:.0e} is allowed");
    error
}
