//! Tensors as bytes, to be written, and checks of those that are read.

use transdiff_core::checkpoint::{Put, StoredDType, WeightFile, WriteTensor};
use transdiff_core::{Error, Result};

use super::header::shape_text;

/// Tensor of little-endian bytes.
pub(super) struct RawTensor {
    pub dtype: StoredDType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// 32-bit words of shape `shape`.
    pub fn words(shape: &[usize], words: impl IntoIterator<Item = u32>) -> Self {
        let bytes = words.into_iter().flat_map(u32::to_le_bytes).collect();
        Self { dtype: StoredDType::U32, shape: shape.to_vec(), bytes }
    }

    /// Text of one axis.
    pub fn text(text: String) -> Self {
        Self { dtype: StoredDType::U8, shape: vec![text.len()], bytes: text.into_bytes() }
    }
}

impl WriteTensor for RawTensor {
    fn dtype(&self) -> StoredDType {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        put(&self.bytes)
    }
}

/// Checks that `file` has the tensor `name` of type `dtype` and of `shape`, in which `None` stands for any size. Returns the
/// sizes of its axes.
pub(super) fn expect<const N: usize>(
    file: &WeightFile,
    name: &str,
    dtype: StoredDType,
    shape: [Option<usize>; N],
) -> Result<[usize; N]> {
    let Some(entry) = file.entries().get(name) else {
        let (path, missing) = (file.path().to_owned(), vec![name.to_owned()]);
        return Err(Error::TensorNames { path, missing, extra: Vec::new() });
    };
    let fits = |got: &[usize; N]| shape.iter().zip(got).all(|(want, got)| want.is_none_or(|n| n == *got));
    match <[usize; N]>::try_from(entry.shape()) {
        Ok(got) if entry.dtype() == dtype && fits(&got) => Ok(got),
        _ => {
            let sizes: Vec<String> =
                shape.iter().map(|d| d.map_or_else(|| "n".to_owned(), |d| d.to_string())).collect();
            let expected = format!("{dtype} elements of shape {}", sizes.join("x"));
            let got = format!("{} of shape {}", entry.dtype(), shape_text(entry.shape()));
            Err(tensor_error(file, name, expected, got))
        }
    }
}

/// Reads all 32-bit words of a tensor.
pub(super) fn read_words(file: &WeightFile, name: &str, count: usize) -> Result<Vec<u32>> {
    let bytes = file.stored_bytes(name, 0..count)?;
    let (words, _) = bytes.as_chunks::<4>();
    let mut out = transdiff_core::try_with_capacity("reading a cache", words.len())?;
    out.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
    Ok(out)
}

/// Reads text.
pub(super) fn read_text(file: &WeightFile, name: &str) -> Result<String> {
    let [len] = expect(file, name, StoredDType::U8, [None])?;
    let bytes = file.stored_bytes(name, 0..len)?.into_owned();
    String::from_utf8(bytes).map_err(|_| tensor_error(file, name, "UTF-8 text", "other bytes"))
}

/// An [`Error::Tensor`].
pub(super) fn tensor_error(
    file: &WeightFile,
    tensor: &str,
    expected: impl Into<String>,
    got: impl ToString,
) -> Error {
    let (path, tensor) = (file.path().to_owned(), tensor.to_owned());
    Error::Tensor { path, tensor, expected: expected.into(), got: got.to_string() }
}
