//! The autoencoder on disk, under the published parameter names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Vae, VaeConfig};
use crate::model::{expected, named_params};
use crate::nn::Module;
use crate::weights::{TensorFile, write_atomic};
use crate::{Backend, DType, Error, HostTensor, Result};

/// Key of the configuration in a file's metadata.
pub const VAE_CONFIG_KEY: &str = "transdiff.vae";

/// What the names of the autoencoder's tensors begin with; others in a file are not its (a published one may have
/// those of the loss that it was trained with).
const PREFIXES: [&str; 4] = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];

impl<B: Backend> Vae<B> {
    /// The autoencoder whose tensors have the names and shapes `shapes`, in the type `dtype`: its sizes are read off
    /// them, and its values are read by name, one tensor at a time. Names of other things may be among them. Errors
    /// name the file `path`.
    ///
    /// # Errors
    /// [`Error::TensorNames`] and [`Error::Tensor`] if tensors are missing, extra, of a wrong shape or type or not
    /// finite; [`Error::Config`] if the sizes do not fit together; what `read` meets.
    pub fn from_tensors<'a>(
        backend: &B,
        path: &Path,
        shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        mut read: impl FnMut(&str) -> Result<HostTensor>,
        dtype: DType,
    ) -> Result<Self> {
        let ours = |(name, _): &(&str, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let shapes: BTreeMap<&str, &[usize]> = shapes.into_iter().filter(ours).collect();
        let config = VaeConfig::from_shapes(path, shapes.iter().map(|(&name, &shape)| (name, shape)))?;
        let mut vae = Self::placeholder(backend, &config, dtype)?;
        check_shapes(path, &expected(&vae, ""), &shapes)?;
        for (name, param) in vae.params_mut() {
            let value = read(&name)?;
            check_value(path, &name, shapes[&*name], &value)?;
            param.set_host(value)?;
        }
        Ok(vae)
    }

    /// Loads a safetensors file with the published parameter names, in the type `dtype`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] if it cannot be read, and those of [`from_tensors`](Self::from_tensors).
    pub fn load(backend: &B, path: impl AsRef<Path>, dtype: DType) -> Result<Self> {
        let mut tensors = TensorFile::read(&path)?.tensors;
        let shapes: Vec<(String, Vec<usize>)> =
            tensors.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        let shapes = shapes.iter().map(|(name, shape)| (&**name, &**shape));
        let read = |name: &str| Ok(tensors.remove(name).expect("the names were checked"));
        Self::from_tensors(backend, path.as_ref(), shapes, read, dtype)
    }

    /// Writes a safetensors file, replacing the one at `path` only when the new one is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let config = serde_json::to_string(self.config()).expect("a configuration is plain data");
        let tensors = named_params(self, "");
        let metadata = BTreeMap::from([(VAE_CONFIG_KEY.to_owned(), config)]);
        write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
    }
}

/// Whether the file has the tensors that are expected, and no others.
fn check_shapes(
    path: &Path,
    expected: &[(String, Vec<usize>)],
    got: &BTreeMap<&str, &[usize]>,
) -> Result<()> {
    let known: BTreeSet<&str> = expected.iter().map(|(name, _)| &**name).collect();
    let missing: Vec<String> =
        known.iter().filter(|&&n| !got.contains_key(n)).map(|&n| n.to_owned()).collect();
    let extra: Vec<String> = got.keys().filter(|&&n| !known.contains(n)).map(|&n| n.to_owned()).collect();
    if !missing.is_empty() || !extra.is_empty() {
        return Err(Error::TensorNames { path: path.to_owned(), missing, extra });
    }
    match expected.iter().find(|(name, shape)| got[&**name] != shape) {
        Some((name, shape)) => {
            Err(tensor_error(path, name, format!("shape {shape:?}"), format!("{:?}", got[&**name])))
        }
        None => Ok(()),
    }
}

fn check_value(path: &Path, name: &str, shape: &[usize], value: &HostTensor) -> Result<()> {
    if value.shape() != shape || !value.dtype().is_float() {
        let got = format!("{} {:?}", value.dtype(), value.shape());
        return Err(tensor_error(path, name, format!("floats of shape {shape:?}"), got));
    }
    if !value.data().is_finite() {
        return Err(tensor_error(path, name, "finite values".to_owned(), "others".to_owned()));
    }
    Ok(())
}

fn tensor_error(path: &Path, tensor: &str, expected: String, got: String) -> Error {
    Error::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), expected, got }
}
