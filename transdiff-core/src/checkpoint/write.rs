//! Writing a safetensors file so that, whatever happens, its path holds the old contents or the new, whole.

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
/// Equal contents give equal bytes, in whatever order the tensors come. They are encoded one at a time. If it
/// fails, the file that was at `path` is untouched and the temporary one is removed; only if it fails in its last step,
/// syncing the directory, is the new file there already, whole, and a crash of the system may bring back the old one.
/// File systems that cannot sync a directory are no failure.
///
/// # Errors
/// [`Error::Argument`] if two tensors have one name, or the header's reserved one; [`Error::Io`] if the system
/// refuses.
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
    // Widest elements first: every tensor is then aligned to its own, and a reader may map the file.
    tensors.sort_by(|(a, x), (b, y)| {
        y.dtype().bitsize().cmp(&x.dtype().bitsize()).then(a.as_ref().cmp(b.as_ref()))
    });
    replace(path, |out| {
        out.write_all(&header(&tensors, metadata))?;
        tensors.iter().try_for_each(|(name, tensor)| write_tensor(out, name.as_ref(), tensor))
    })
    .map_err(Error::io(path))
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

/// Length and JSON, padded to eight bytes. Sorted maps: the crate's own have a random order.
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
        let (want, got) = (tensor.data_len(), bytes.len());
        return Err(io::Error::other(format!("tensor {name}: announced {want} bytes, gave {got}")));
    }
    out.write_all(&bytes)
}

/// Puts what `write` writes in the place of `path`.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let entries = open_directory(directory)?;
    let temporary = new_file_in(directory)?;
    let mut out = BufWriter::new(temporary.as_file());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    entries.map_or(Ok(()), |entries| sync_directory(&entries))
}

/// Removed when dropped; as readable for others as any new file, where a temporary one would be private.
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

/// The directory, where directories can be opened.
fn open_directory(path: &Path) -> io::Result<Option<File>> {
    cfg!(unix).then(|| File::open(path)).transpose()
}

/// Makes the rename itself durable, where the file system can do that.
fn sync_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    }
}

/// A tensor of a backend, brought to the host when its turn comes: a file needs memory for one tensor at a time.
impl<B: Backend> View for &Tensor<B> {
    fn dtype(&self) -> Dtype {
        stored(Tensor::dtype(self))
    }

    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The trait knows no errors: a tensor that cannot be read gives no bytes, and the writer refuses it.
        Cow::Owned(self.to_host().map_or_else(|_| Vec::new(), |host| View::data(&&host).into_owned()))
    }

    fn data_len(&self) -> usize {
        self.numel() * Tensor::dtype(self).size()
    }
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        stored(HostTensor::dtype(self))
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
