//! The caller's buffers for results.

use std::ffi::c_void;

use transdiff::models::transdiff::Mode;
use transdiff::pipeline::{Info, Output, PixelFormat, Wanted, to_pixels};
use transdiff::{Error, HostTensor};

use crate::generate::{transcdiff_generate_options, transcdiff_outputs};
use crate::input::{array_mut, check_floats, check_size, product};
use crate::pixels::format_of;
use crate::status::{Failure, Outcome};

/// Where the results of a call go, checked.
pub(crate) struct Buffers {
    out: transcdiff_outputs,
    format: PixelFormat,
}

impl Buffers {
    pub(crate) fn new(out: transcdiff_outputs) -> Outcome<Self> {
        if out.reserved != 0 {
            return Err(Failure::argument("reserved", "0", out.reserved));
        }
        Ok(Self { out, format: format_of(out.pixel_format)? })
    }

    pub(crate) fn wanted(&self) -> Wanted {
        Wanted { images: !self.out.images.is_null(), features: !self.out.features.is_null() }
    }

    /// Something is wanted, and every buffer that was given has the size of what will be written.
    pub(crate) fn check(&self, info: &Info, o: &transcdiff_generate_options) -> Outcome {
        let (n, float) = (o.images, size_of::<f32>());
        let out = &self.out;
        if out.images.is_null() && out.latents.is_null() && out.references.is_null() && out.features.is_null()
        {
            return Err(Failure::argument(
                "outputs",
                "a buffer for images, latents, references or features",
                "none",
            ));
        }
        let latents = product("images", &[&info.config.latent_shape(n)[..], &[float]].concat())?;
        if !out.images.is_null() {
            let side = info.vae_image_size()?;
            check_size("images", pixel_bytes(self.format, n, side, side)?, out.images_size)?;
        }
        if !out.latents.is_null() {
            check_floats("latents", out.latents, latents, out.latents_size)?;
        }
        if !out.references.is_null() {
            let steps = match (info.config.mode, o.classes.is_null()) {
                (Mode::MultiReference { groups }, false) => groups - 1,
                _ => 0,
            };
            let size = product("images", &[steps, latents])?;
            check_floats("references", out.references, size, out.references_size)?;
        }
        if !out.features.is_null() {
            let count = if o.features.is_null() { info.config.feature_tokens } else { o.feature_count };
            let size = product("images", &[n, count, info.config.width, float])?;
            check_floats("features", out.features, size, out.features_size)?;
        }
        Ok(())
    }

    /// # Safety
    /// The buffers are as large as they say, and nobody else uses them.
    pub(crate) unsafe fn write(&self, made: &Output) -> Outcome {
        let out = &self.out;
        // SAFETY: the caller promises it, here and below.
        unsafe {
            if let Some(images) = &made.images {
                write_pixels(images, self.format, out.images, out.images_size)?;
            }
            if !out.latents.is_null() {
                write_floats(&[&made.latents], out.latents, "latents")?;
            }
            if !out.references.is_null() {
                write_floats(&made.references.iter().collect::<Vec<_>>(), out.references, "references")?;
            }
            if let Some(features) = &made.features {
                write_floats(&[features], out.features, "features")?;
            }
        }
        Ok(())
    }
}

/// Bytes of `n` images of `height`×`width` pixels.
pub(crate) fn pixel_bytes(format: PixelFormat, n: usize, height: usize, width: usize) -> Outcome<usize> {
    let bytes = format.image_bytes(height, width).and_then(|each| each.checked_mul(n));
    let fits = bytes.filter(|&b| b <= isize::MAX as usize);
    fits.ok_or_else(|| {
        Failure::argument("images", "a size that memory can hold", format!("{n} × {height} × {width}"))
    })
}

/// # Safety
/// `to` is NULL or points to `size` bytes that nobody else uses.
pub(crate) unsafe fn write_pixels(
    images: &HostTensor,
    format: PixelFormat,
    to: *mut c_void,
    size: usize,
) -> Outcome {
    // Before the buffer is touched.
    let &[n, _, height, width] = images.shape() else {
        return Err(Error::shape("result", "images [n, 3, H, W]", images.shape()).into());
    };
    check_size("images", pixel_bytes(format, n, height, width)?, size)?;
    // SAFETY: the caller promises it.
    let out = unsafe { array_mut(to.cast::<u8>(), size, "images") }?;
    Ok(to_pixels(images, format, out)?)
}

/// The values of a result.
pub(crate) fn floats(tensor: &HostTensor) -> Outcome<&[f32]> {
    let wrong = || Error::DType { op: "result", expected: "f32".into(), got: tensor.dtype() };
    Ok(tensor.as_f32().ok_or_else(wrong)?)
}

/// Writes tensors one after another.
///
/// # Safety
/// `to` points to as many elements as the tensors have, which nobody else uses.
pub(crate) unsafe fn write_floats(tensors: &[&HostTensor], to: *mut f32, name: &'static str) -> Outcome {
    let len = tensors.iter().map(|t| t.data().len()).sum();
    // SAFETY: the caller promises it.
    let mut rest = unsafe { array_mut(to, len, name) }?;
    for tensor in tensors {
        let (now, later) = rest.split_at_mut(tensor.data().len());
        now.copy_from_slice(floats(tensor)?);
        rest = later;
    }
    Ok(())
}
