//! Estimates of the memory that a pipeline takes.

use super::info::check_match;
use super::load::{LoadOptions, described_codec};
use super::pipeline::Pipeline;
use crate::checkpoint::{Entry, WeightFile, WeightView};
use crate::models::{CodecFile, StoredModel};
use crate::{Device, Result};

/// Bytes per thread that kernels keep for intermediate results.
const SCRATCH: u64 = 1 << 19;

/// Estimate of memory in bytes: host memory on the CPU, device memory elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights of model and codec, kept while the pipeline lives.
    pub weights: u64,
    /// In addition to the weights while they are loaded: the largest tensor as stored in the file, and as laid out on the
    /// device.
    pub loading: u64,
    /// In addition to the weights while the images of one batch are generated.
    pub generation: u64,
}

impl Pipeline {
    /// Estimate of the memory that [`load`](Self::load) and a generation of `images` images at a time take, from the
    /// files' headers alone.
    ///
    /// # Errors
    /// As [`load`](Self::load), but for the values of tensors.
    pub fn estimate(
        model: &WeightFile,
        codec: Option<&CodecFile>,
        options: &LoadOptions,
        images: usize,
    ) -> Result<MemoryEstimate> {
        let file = model;
        let model = StoredModel::find(file, &options.hints)?;
        let opened = described_codec(file, &model, codec, options)?;
        let info = model.info();
        let (images, size) = (images as u64, options.precision.dtype().size() as u64);
        let (is_int8, is_quantized) = (options.precision.is_int8(), model.quantized_names());
        let mut weights =
            WeightBytes::of(model.tensors(), |name| if is_int8 && is_quantized(name) { 1 } else { size });
        let mut generation = model.generation_elements().bytes(images, size);
        if let Some(codec) = codec.or(opened.as_ref()) {
            let codec_info = codec.info()?;
            check_match(&info, &codec_info)?;
            if let Some(tensors) = codec.tensors()? {
                weights.add(WeightBytes::of(&tensors, |_| size));
            }
            let [_, height, width] = info.code_shape;
            let pixels = [height, width]
                .map(|side| (side * codec_info.downsampling) as u64)
                .into_iter()
                .fold(1, u64::saturating_mul);
            let at_once = images_at_once(options.device, pixels).min(images.max(1));
            let decoding = codec.decoding_elements([height, width], at_once)?;
            generation = generation.max(decoding.bytes(images, size));
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let scratch = SCRATCH.saturating_mul(options.threads.unwrap_or_else(cores) as u64);
        Ok(MemoryEstimate {
            weights: weights.kept,
            loading: weights.loading,
            generation: generation.saturating_add(scratch),
        })
    }
}

/// Number of images that the codec decodes at a time: for `auto`, the largest of those of the devices that it may choose.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the CPU takes one, whatever its size"))]
fn images_at_once(device: Device, pixels: u64) -> u64 {
    match device {
        #[cfg(feature = "cuda")]
        Device::Auto | Device::Cuda(_) => {
            transdiff_cuda::images_at_once(usize::try_from(pixels).unwrap_or(usize::MAX)) as u64
        }
        _ => 1,
    }
}

/// Bytes of weights: kept, and in addition while one tensor is read.
struct WeightBytes {
    kept: u64,
    loading: u64,
}

impl WeightBytes {
    /// Bytes of weights that take `size` bytes per element, by their names.
    fn of(tensors: &WeightView<'_>, size: impl Fn(&str) -> u64) -> Self {
        let values = |entry: &Entry| entry.shape().iter().map(|&d| d as u64).product::<u64>();
        let decoded = |entry: &Entry| values(entry) * entry.decoded().map_or(0, |dtype| dtype.size() as u64);
        Self {
            kept: tensors.entries().map(|(name, entry)| values(entry) * size(name) + TENSOR_BYTES).sum(),
            // As read, and once more in the device's layout.
            loading: tensors
                .entries()
                .map(|(name, e)| decoded(e) + values(e) * size(name))
                .max()
                .unwrap_or(0),
        }
    }

    fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.loading = self.loading.max(other.loading);
    }
}

/// Bytes that are kept per tensor beside its elements: shape, strides, key and handles. Measured: 290 to 380 bytes.
const TENSOR_BYTES: u64 = 330;
