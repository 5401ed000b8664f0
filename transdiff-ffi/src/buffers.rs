//! Caller-provided buffers for results.

use std::ffi::c_void;

use transdiff::pipeline::{Info, Output, OutputSelection, PixelFormat, to_pixels};
use transdiff::{Error, HostTensor};

use crate::input::{array_mut, check_floats, check_size, product};
use crate::options::{transcdiff_generate_options, transcdiff_outputs};
use crate::pixel_format::{check_channels, pixel_bytes, pixel_format};
use crate::status::{FfiError, FfiResult};

/// Result buffers of a generation.
pub(crate) struct Buffers {
    out: transcdiff_outputs,
    format: PixelFormat,
}

impl Buffers {
    pub(crate) fn new(out: transcdiff_outputs) -> FfiResult<Self> {
        if out.reserved != 0 {
            return Err(FfiError::argument("reserved", "0", out.reserved));
        }
        Ok(Self { out, format: pixel_format(out.pixel_format)? })
    }

    /// Optional results with a buffer.
    pub(crate) fn selection(&self) -> OutputSelection {
        OutputSelection { images: !self.out.images.is_null(), features: !self.out.features.is_null() }
    }

    /// Checks that there is a buffer, and that every buffer has the size of its result.
    pub(crate) fn check(&self, info: &Info, o: &transcdiff_generate_options) -> FfiResult {
        let (n, float) = (o.images, size_of::<f32>());
        let out = &self.out;
        if out.images.is_null() && out.latents.is_null() && out.references.is_null() && out.features.is_null()
        {
            return Err(FfiError::argument(
                "outputs",
                "a buffer for images, latents, references or features",
                "none",
            ));
        }
        let latents = product("images", &[&info.generator.codes_shape(n)[..], &[float]].concat())?;
        if !out.images.is_null() {
            let [height, width] = info.require_image_size()?;
            check_channels(self.format, info.codec.as_ref())?;
            check_size("images", pixel_bytes(self.format, n, height, width)?, out.images_size)?;
        }
        if !out.latents.is_null() {
            check_floats("latents", out.latents, latents, out.latents_size)?;
        }
        if !out.references.is_null() {
            let count = if o.classes.is_null() { 0 } else { info.generator.max_references() };
            let size = product("images", &[count, latents])?;
            check_floats("references", out.references, size, out.references_size)?;
        }
        if !out.features.is_null() {
            let shape = info.generator.feature_shape()?;
            let count = if o.features.is_null() { shape.count } else { o.feature_count };
            let size = product("images", &[n, count, shape.width, float])?;
            check_floats("features", out.features, size, out.features_size)?;
        }
        Ok(())
    }

    /// Writes the results to their buffers.
    ///
    /// # Safety
    /// The buffers have the given sizes and are not used otherwise meanwhile.
    pub(crate) unsafe fn write(&self, output: &Output) -> FfiResult {
        let out = &self.out;
        // SAFETY: the caller promises it, here and below.
        unsafe {
            if let Some(images) = &output.images {
                write_pixels(images, self.format, out.images, out.images_size)?;
            }
            if !out.latents.is_null() {
                write_floats(&[&output.latents], out.latents, "latents")?;
            }
            if !out.references.is_null() {
                write_floats(&output.references.iter().collect::<Vec<_>>(), out.references, "references")?;
            }
            if let Some(features) = &output.features {
                write_floats(&[features], out.features, "features")?;
            }
        }
        Ok(())
    }
}

/// Converts images to `format` and writes them to a buffer of exactly their size.
///
/// # Safety
/// `to` is NULL or points to `size` bytes that are not used otherwise meanwhile.
pub(crate) unsafe fn write_pixels(
    images: &HostTensor,
    format: PixelFormat,
    to: *mut c_void,
    size: usize,
) -> FfiResult {
    // Checked before the buffer is written.
    let &[n, _, height, width] = images.shape() else {
        return Err(Error::shape("result", "images [n, c, H, W]", images.shape()).into());
    };
    check_size("images", pixel_bytes(format, n, height, width)?, size)?;
    // SAFETY: the caller promises it.
    let out = unsafe { array_mut(to.cast::<u8>(), size, "images") }?;
    Ok(to_pixels(images, format, out)?)
}

/// Values of a result tensor.
fn floats(tensor: &HostTensor) -> FfiResult<&[f32]> {
    let wrong = || Error::DType { op: "result", expected: "f32".into(), got: tensor.dtype() };
    Ok(tensor.as_f32().ok_or_else(wrong)?)
}

/// Writes tensors contiguously to a buffer of exactly their size.
///
/// # Safety
/// `to` points to as many elements as the tensors have in total, which are not used otherwise meanwhile.
pub(crate) unsafe fn write_floats(tensors: &[&HostTensor], to: *mut f32, name: &'static str) -> FfiResult {
    let len = tensors.iter().map(|t| t.data().len()).sum();
    // SAFETY: the caller promises it.
    let mut rest = unsafe { array_mut(to, len, name) }?;
    for tensor in tensors {
        let (head, tail) = rest.split_at_mut(tensor.data().len());
        head.copy_from_slice(floats(tensor)?);
        rest = tail;
    }
    Ok(())
}
