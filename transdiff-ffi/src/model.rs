//! Models: loaded once, shared by any number of sessions and threads.

use std::ffi::{CString, c_char};

use transdiff::DType;
use transdiff::pipeline::Pipeline;

use crate::status::{FfiError, guard, guard_value, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// Computation in f32.
pub const TRANSCDIFF_F32: u32 = 0;
/// Computation in bf16 with f32 accumulation; weights are stored in bf16.
pub const TRANSCDIFF_BF16: u32 = 1;

/// 1-step mode: all features are computed at once.
pub const TRANSCDIFF_MODE_ONE_STEP: u32 = 0;
/// Multi-reference autoregression (MRAR): one group of features per AR step.
pub const TRANSCDIFF_MODE_MULTI_REFERENCE: u32 = 1;

/// Description of a model. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_model_info {
    /// sizeof(transcdiff_model_info).
    pub struct_size: usize,
    /// Number of classes.
    pub classes: usize,
    /// Generation mode: `TRANSCDIFF_MODE_ONE_STEP` or `TRANSCDIFF_MODE_MULTI_REFERENCE`.
    pub mode: u32,
    /// Data type of the computation: `TRANSCDIFF_F32` or `TRANSCDIFF_BF16`.
    pub dtype: u32,
    /// Number of AR steps per generation, each with one group of features; 1 in 1-step mode.
    pub ar_steps: usize,
    /// Number of semantic features per image.
    pub feature_count: usize,
    /// Number of values per feature.
    pub feature_width: usize,
    /// Number of latent channels, C.
    pub latent_channels: usize,
    /// Latent height, h.
    pub latent_height: usize,
    /// Latent width, w.
    pub latent_width: usize,
    /// Image height in pixels; 0 without a codec.
    pub image_height: usize,
    /// Image width in pixels; 0 without a codec.
    pub image_width: usize,
    /// Downsampling factor d of the codec, in pixels per latent position along each side; 0 without a codec.
    pub downsampling: usize,
    /// Number of parameters of the model.
    pub parameters: u64,
    /// Number of parameters of the codec; 0 without a codec.
    pub codec_parameters: u64,
}

// SAFETY: repr(C) without padding, begins with its size; every bit pattern is a valid integer.
unsafe impl Versioned for transcdiff_model_info {
    const NAME: &'static str = "transcdiff_model_info";
}

/// Model on a device, with or without a codec. Created by `transcdiff_model_load` and freed by `transcdiff_model_free`.
///
/// A model is immutable: any number of sessions and threads can use it concurrently. The handle may be freed while sessions
/// exist; the memory is released with the last of them.
#[allow(non_camel_case_types)]
pub struct transcdiff_model {
    pub(crate) pipeline: Pipeline,
    device: CString,
}

impl transcdiff_model {
    pub(crate) fn new(pipeline: Pipeline) -> Self {
        let device = CString::new(pipeline.info().device.clone()).unwrap_or_default();
        Self { pipeline, device }
    }
}

/// Writes the description of a model to `*info`. The caller sets `info->struct_size`.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed; `info` is NULL or points to a struct of the size given by its first field; `error`
/// is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_get_info(
    model: *const transcdiff_model,
    info: *mut transcdiff_model_info,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.ok_or(FfiError::Null("model"))?;
        // SAFETY: the caller promises it.
        unsafe { versioned::fill(info, "info", info_of(&model.pipeline)) }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Returns the human-readable name of the device; "" for NULL. The string belongs to the model handle and is valid until
/// that is freed. Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_device(model: *const transcdiff_model) -> *const c_char {
    // SAFETY: the caller promises it.
    guard_value(c"".as_ptr(), || unsafe { model.as_ref() }.map_or(c"".as_ptr(), |m| m.device.as_ptr()))
}

/// Frees a model handle; does nothing for NULL. Sessions of the model remain usable. Callable from any thread, once no other
/// call uses the handle.
///
/// # Safety
/// `model` is NULL or has not been freed, and the handle is not in use by another call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_free(model: *mut transcdiff_model) {
    if !model.is_null() {
        // SAFETY: the caller promises it; handles come from `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(model) }));
    }
}

fn info_of(pipeline: &Pipeline) -> transcdiff_model_info {
    let info = pipeline.info();
    let (generator, features) = (&info.generator, info.generator.features.unwrap_or_default());
    let [latent_channels, latent_height, latent_width] = generator.code_shape;
    let [image_height, image_width] = info.image_size().unwrap_or_default();
    transcdiff_model_info {
        struct_size: size_of::<transcdiff_model_info>(),
        classes: generator.classes,
        mode: match generator.multi_reference {
            false => TRANSCDIFF_MODE_ONE_STEP,
            true => TRANSCDIFF_MODE_MULTI_REFERENCE,
        },
        dtype: if info.dtype == DType::BF16 { TRANSCDIFF_BF16 } else { TRANSCDIFF_F32 },
        ar_steps: generator.ar_steps,
        feature_count: features.count,
        feature_width: features.width,
        latent_channels,
        latent_height,
        latent_width,
        image_height,
        image_width,
        downsampling: info.codec.as_ref().map_or(0, |codec| codec.downsampling),
        parameters: info.param_count as u64,
        codec_parameters: info.codec_param_count as u64,
    }
}
