//! Atomic writing of safetensors files: after a failure or a crash the path holds either the old contents or the new
//! ones, complete.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ::safetensors::tensor::{Dtype, TensorInfo, TensorView};
use serde_json::json;
use tempfile::NamedTempFile;

use super::destination::Destination;
use super::format_version::{FORMAT_KEY, FORMAT_VERSION};
use super::safetensors::METADATA_KEY;
use crate::{Backend, CancellationToken, DType, Error, HostData, HostTensor, Result, Tensor};

/// Beginning of the names of temporary files. Those of a process that was killed remain.
pub const TEMPORARY_PREFIX: &str = ".writing-";
/// Bytes that are encoded at a time.
const PIECE_BYTES: usize = 1 << 16;

/// A tensor that can be written to a file.
pub trait WriteTensor {
    /// Element type in the file.
    fn dtype(&self) -> Dtype;

    /// Size of every axis.
    fn shape(&self) -> &[usize];

    /// Calls `put` with consecutive pieces of the elements, row-major and little-endian. Together they have as many bytes
    /// as type and shape say.
    ///
    /// # Errors
    /// Those of `put`, and those of reading the tensor.
    fn write(&self, put: &mut Put<'_>) -> Result<()>;
}

/// Receiver of the bytes of a tensor.
pub type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Writes `tensors` and `metadata`, to which [`FORMAT_KEY`] is added, to a temporary file beside `path`, syncs it, renames it, and syncs the directory.
///
/// Equal contents give equal bytes, whatever the order of the tensors. Tensors are encoded one at a time, in pieces. A
/// symbolic link at `path` is followed, and a file that is replaced keeps its permissions. On failure the file at `path`
/// is untouched and the temporary file is removed, with one exception: if syncing the directory fails, which comes last,
/// the new file is already in place and complete, and a crash of the system may bring back the old one. A file system that
/// cannot sync a directory is not an error.
///
/// # Errors
/// [`Error::Argument`] if two tensors have the same name, or one has the name that the header reserves;
/// [`Error::Io`] if the system cannot write the file, or if `path` names something that is neither a regular file nor
/// missing; those of [`WriteTensor::write`].
pub fn write_atomic<S, V>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (S, V)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()>
where
    S: AsRef<str>,
    V: WriteTensor,
{
    write_atomic_cancellable(path, tensors, metadata, &CancellationToken::new())
}

/// [`write_atomic`], until `token` is cancelled: the token is checked between pieces, and once more before the file takes
/// its name.
///
/// # Errors
/// As [`write_atomic`]; [`Error::Cancelled`].
pub fn write_atomic_cancellable<S, V>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (S, V)>,
    metadata: &BTreeMap<String, String>,
    token: &CancellationToken,
) -> Result<()>
where
    S: AsRef<str>,
    V: WriteTensor,
{
    let mut tensors: Vec<(S, V)> = tensors.into_iter().collect();
    check_names(&tensors)?;
    // Widest elements first, so that every tensor is aligned to its element size and the file can be mapped.
    tensors.sort_by(|(a, x), (b, y)| {
        y.dtype().bitsize().cmp(&x.dtype().bitsize()).then(a.as_ref().cmp(b.as_ref()))
    });
    let path = path.as_ref();
    replace_file(path, token, |put| {
        put(&header(&tensors, metadata))?;
        tensors.iter().try_for_each(|(name, tensor)| write_tensor(path, name.as_ref(), tensor, put))
    })
}

/// Writes `bytes` in the same way as [`write_atomic`] writes tensors.
///
/// # Errors
/// [`Error::Io`] if the system cannot write the file, or if `path` names something that is neither a regular file nor
/// missing.
pub fn write_bytes_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    replace_file(path.as_ref(), &CancellationToken::new(), |put| put(bytes))
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
fn header<S: AsRef<str>, V: WriteTensor>(tensors: &[(S, V)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut metadata = metadata.clone();
    metadata.insert(FORMAT_KEY.to_owned(), FORMAT_VERSION.to_string());
    let mut entries = BTreeMap::from([(METADATA_KEY, json!(metadata))]);
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + byte_len(tensor);
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        entries.insert(name.as_ref(), json!(TensorInfo { dtype, shape, data_offsets: (start, end) }));
        start = end;
    }
    let mut text = json!(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(size_of::<u64>()), b' ');
    [(text.len() as u64).to_le_bytes().as_slice(), &text].concat()
}

fn byte_len(tensor: &impl WriteTensor) -> usize {
    tensor.shape().iter().product::<usize>() * tensor.dtype().bitsize() / 8
}

fn write_tensor(path: &Path, name: &str, tensor: &impl WriteTensor, put: &mut Put<'_>) -> Result<()> {
    let (expected, mut got) = (byte_len(tensor), 0);
    tensor.write(&mut |piece| {
        got += piece.len();
        put(piece)
    })?;
    if got != expected {
        let message = format!("tensor {name}: expected {expected} bytes, got {got}");
        return Err(Error::io(path)(io::Error::other(message)));
    }
    Ok(())
}

/// Replaces the file at `path` with the bytes that `write` puts.
fn replace_file(
    path: &Path,
    token: &CancellationToken,
    write: impl FnOnce(&mut Put<'_>) -> Result<()>,
) -> Result<()> {
    let destination = Destination::of(path)?;
    let io_error = |error| Error::io(path)(error);
    let directory = match destination.path().parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory_handle = open_directory(directory).map_err(io_error)?;
    let temporary = new_file_in(directory, destination.permissions()).map_err(io_error)?;
    let mut out = BufWriter::new(temporary.as_file());
    write(&mut |piece| {
        token.check()?;
        out.write_all(piece).map_err(io_error)
    })?;
    out.flush().map_err(io_error)?;
    drop(out);
    temporary.as_file().sync_all().map_err(io_error)?;
    token.check()?;
    temporary.persist(destination.path()).map_err(|e| io_error(e.error))?;
    directory_handle.map_or(Ok(()), |handle| sync_directory(&handle)).map_err(io_error)
}

/// Creates a temporary file that is removed when dropped, with the given permissions or those of any new file; those of a
/// temporary one would be private.
fn new_file_in(directory: &Path, permissions: Option<&Permissions>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(not(unix))]
    let _ = permissions;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let new_file = || Permissions::from_mode(0o666);
        builder.permissions(permissions.cloned().unwrap_or_else(new_file));
    }
    let file = builder.tempfile_in(directory)?;
    // The umask has cleared bits when the file was created.
    #[cfg(unix)]
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions.clone())?;
    }
    Ok(file)
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

pub(super) fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    }
}

impl<T: WriteTensor + ?Sized> WriteTensor for &T {
    fn dtype(&self) -> Dtype {
        T::dtype(self)
    }

    fn shape(&self) -> &[usize] {
        T::shape(self)
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        T::write(self, put)
    }
}

/// A tensor of a backend, downloaded when it is written: writing a file takes host memory for one tensor at a time.
impl<B: Backend> WriteTensor for Tensor<B> {
    fn dtype(&self) -> Dtype {
        stored_dtype(Tensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        self.to_host()?.write(put)
    }
}

/// A tensor of any type in memory, in the form of the crate `safetensors`.
impl WriteTensor for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        TensorView::dtype(self)
    }

    fn shape(&self) -> &[usize] {
        TensorView::shape(self)
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        put(self.data())
    }
}

impl WriteTensor for HostTensor {
    fn dtype(&self) -> Dtype {
        stored_dtype(HostTensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        HostTensor::shape(self)
    }

    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        match HostTensor::data(self) {
            HostData::F32(v) => encode(v, f32::to_le_bytes, put),
            HostData::F64(v) => encode(v, f64::to_le_bytes, put),
            HostData::BF16(v) => encode(v, half::bf16::to_le_bytes, put),
            HostData::I32(v) => encode(v, i32::to_le_bytes, put),
        }
    }
}

/// Encodes `values` in pieces.
pub(super) fn encode<const SIZE: usize, T: Copy>(
    values: &[T],
    bytes_of: impl Fn(T) -> [u8; SIZE],
    put: &mut Put<'_>,
) -> Result<()> {
    let mut piece = [0; PIECE_BYTES];
    let (slots, _) = piece.as_chunks_mut::<SIZE>();
    for values in values.chunks(slots.len()) {
        for (slot, &value) in slots.iter_mut().zip(values) {
            *slot = bytes_of(value);
        }
        put(slots[..values.len()].as_flattened())?;
    }
    Ok(())
}
