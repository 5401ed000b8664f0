//! Atomic writing of safetensors files: after a failure or a crash the path holds either the old contents or the new
//! ones, complete.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ::safetensors::tensor::{Dtype, TensorInfo, View};
use serde_json::json;
use tempfile::NamedTempFile;

use super::safetensors::METADATA_KEY;
use crate::{Backend, DType, Error, HostData, HostTensor, Result, Tensor};

/// Writes `tensors` and `metadata` to a temporary file beside `path`, syncs it, renames it, and syncs the directory.
///
/// Equal contents give equal bytes, whatever the order of the tensors. Tensors are encoded one at a time. On failure the
/// file at `path` is untouched and the temporary file is removed, with one exception: if syncing the directory fails,
/// which comes last, the new file is already in place and complete, and a crash of the system may bring back the old
/// one. A file system that cannot sync a directory is not an error.
///
/// # Errors
/// [`Error::Argument`] if two tensors have the same name, or one has the name that the header reserves;
/// [`Error::Io`] if the system cannot write the file.
pub fn write_atomic<S, V>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (S, V)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()>
where
    S: AsRef<str>,
    V: View,
{
    let path = path.as_ref();
    let mut tensors: Vec<(S, V)> = tensors.into_iter().collect();
    check_names(&tensors)?;
    // Widest elements first, so that every tensor is aligned to its element size and the file can be mapped.
    tensors.sort_by(|(a, x), (b, y)| {
        y.dtype().bitsize().cmp(&x.dtype().bitsize()).then(a.as_ref().cmp(b.as_ref()))
    });
    replace_file(path, |out| {
        out.write_all(&header(&tensors, metadata))?;
        tensors.iter().try_for_each(|(name, tensor)| write_tensor(out, name.as_ref(), tensor))
    })
    .map_err(Error::io(path))
}

/// Writes `bytes` in the same way as [`write_atomic`] writes tensors.
///
/// # Errors
/// [`Error::Io`] if the system cannot write the file.
pub fn write_bytes_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    replace_file(path, |out| out.write_all(bytes)).map_err(Error::io(path))
}

fn check_names<S: AsRef<str>, V>(tensors: &[(S, V)]) -> Result<()> {
    let mut seen = HashSet::from([METADATA_KEY]);
    match tensors.iter().find(|(name, _)| !seen.insert(name.as_ref())) {
        Some((name, _)) => Err(Error::argument(
            "tensors",
            format!("distinct names other than {METADATA_KEY}"),
            name.as_ref(),
        )),
        None => Ok(()),
    }
}

/// Encodes the header: length and JSON, padded to eight bytes. The maps are sorted; those of the crate `safetensors`
/// have a random order.
fn header<S: AsRef<str>, V: View>(tensors: &[(S, V)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut entries = BTreeMap::from([(METADATA_KEY, json!(metadata))]);
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.data_len();
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        entries.insert(name.as_ref(), json!(TensorInfo { dtype, shape, data_offsets: (start, end) }));
        start = end;
    }
    let mut text = json!(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(size_of::<u64>()), b' ');
    [(text.len() as u64).to_le_bytes().as_slice(), &text].concat()
}

fn write_tensor(out: &mut impl Write, name: &str, tensor: &impl View) -> io::Result<()> {
    let bytes = tensor.data();
    if bytes.len() != tensor.data_len() {
        let (expected, got) = (tensor.data_len(), bytes.len());
        return Err(io::Error::other(format!("tensor {name}: expected {expected} bytes, got {got}")));
    }
    out.write_all(&bytes)
}

/// Replaces the file at `path` with the output of `write`.
fn replace_file(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory_handle = open_directory(directory)?;
    let temporary = new_file_in(directory)?;
    let mut out = BufWriter::new(temporary.as_file());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    directory_handle.map_or(Ok(()), |handle| sync_directory(&handle))
}

/// Creates a temporary file that is removed when dropped. It has the permissions of any new file; those of a temporary
/// one would be private.
fn new_file_in(directory: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(directory)
}

/// Opens the directory, on systems where directories can be opened.
fn open_directory(path: &Path) -> io::Result<Option<File>> {
    cfg!(unix).then(|| File::open(path)).transpose()
}

/// Makes the rename durable, where the file system supports it.
fn sync_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    }
}

/// A tensor of a backend, downloaded when it is written: writing a file takes host memory for one tensor at a time.
impl<B: Backend> View for &Tensor<B> {
    fn dtype(&self) -> Dtype {
        stored_dtype(Tensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The trait has no errors: a tensor that cannot be downloaded yields no bytes, and the writer rejects it.
        Cow::Owned(self.to_host().map_or_else(|_| Vec::new(), |host| View::data(&&host).into_owned()))
    }

    fn data_len(&self) -> usize {
        self.numel() * Tensor::dtype(self).size()
    }
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        stored_dtype(HostTensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        HostTensor::shape(self)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match HostTensor::data(self) {
            HostData::F32(v) => encode(v, |x| x.to_le_bytes()),
            HostData::F64(v) => encode(v, |x| x.to_le_bytes()),
            HostData::BF16(v) => encode(v, |x| x.to_le_bytes()),
            HostData::I32(v) => encode(v, |x| x.to_le_bytes()),
        })
    }

    fn data_len(&self) -> usize {
        HostTensor::data(self).len() * HostTensor::dtype(self).size()
    }
}

fn encode<const SIZE: usize, T: Copy>(values: &[T], bytes_of: impl Fn(T) -> [u8; SIZE]) -> Vec<u8> {
    let mut out = vec![0; values.len() * SIZE];
    let (slots, _) = out.as_chunks_mut::<SIZE>();
    for (slot, &value) in slots.iter_mut().zip(values) {
        *slot = bytes_of(value);
    }
    out
}
