//! Models: loaded once, shared by any number of sessions and threads.

use std::ffi::{CString, c_char};
use std::ptr;

use transdiff::DType;
use transdiff::pipeline::Pipeline;

use crate::input::{out_number, text};
use crate::status::{FfiError, guard, guard_value, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// Computation in f32.
pub const TRANSCDIFF_F32: u32 = 0;
/// Computation in bf16 with f32 accumulation; weights are stored in bf16.
pub const TRANSCDIFF_BF16: u32 = 1;
/// Computation with 8-bit integers in the linear layers of the model's blocks, but for the first of the decoder: weights have
/// one scale per output, inputs one per token. Everything else is as with `TRANSCDIFF_BF16`, the codec too. CPU only.
pub const TRANSCDIFF_INT8: u32 = 2;

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
    /// Data type of the computation: `TRANSCDIFF_F32`, `TRANSCDIFF_BF16` or `TRANSCDIFF_INT8`.
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
    /// Number of parameters of the codec; 0 without a codec, and for patches.
    pub codec_parameters: u64,
    /// Colour channels of the images, 1 (grey) or 3 (RGB); 0 without a codec.
    pub image_channels: usize,
    /// Number of class names: `classes`, or 0 if the classes have no names.
    pub class_names: usize,
    /// 1 for a distilled model, which `TRANSCDIFF_SOLVER_CONSISTENCY` goes with, and 0 for others.
    pub distilled: u32,
    /// Reserved; 0.
    pub reserved: u32,
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
    class_names: Vec<CString>,
}

impl transcdiff_model {
    pub(crate) fn new(pipeline: Pipeline) -> Self {
        let text = |text: &String| CString::new(text.as_str()).unwrap_or_default();
        let device = text(&pipeline.info().device);
        let class_names = pipeline.info().class_names.names().iter().map(text).collect();
        Self { pipeline, device, class_names }
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

/// Returns the name of a class in UTF-8: the one that the model file records, or else the ImageNet name if there are 1000
/// classes. Returns NULL for a class without a name, and for a NULL model. The string belongs to the model handle and is
/// valid until that is freed. Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_class_name(
    model: *const transcdiff_model,
    class_number: usize,
) -> *const c_char {
    guard_value(ptr::null(), || {
        // SAFETY: the caller promises it.
        let name = unsafe { model.as_ref() }.and_then(|model| model.class_names.get(class_number));
        name.map_or(ptr::null(), |name| name.as_ptr())
    })
}

/// Finds a class by `name`, in UTF-8, and writes its number to `*class_number`. `name` is the exact name, the number in
/// decimal, the name in another case or with other separators, or some consecutive words of the name; the first of these
/// that any class has decides.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL, text that is not UTF-8, an unknown class, and a name that several
/// classes match; the message lists them. Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed; `name` is NULL or a string that ends with a zero byte; `class_number` and `error`
/// are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_find_class(
    model: *const transcdiff_model,
    name: *const c_char,
    class_number: *mut u32,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.ok_or(FfiError::Null("model"))?;
        // SAFETY: the caller promises it.
        let name = unsafe { text(name, "name") }?.ok_or(FfiError::Null("name"))?;
        // SAFETY: the caller promises it.
        let out = unsafe { out_number(class_number, "class_number") }?;
        let class = model.pipeline.info().class_names.find(name)?;
        let class = u32::try_from(class)
            .map_err(|_| FfiError::argument("class", format!("a number up to {}", u32::MAX), class))?;
        // SAFETY: `out_number` checked the pointer, which the caller promises is writable.
        unsafe { out.write(class) };
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
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
        dtype: match info.precision {
            precision if precision.is_int8() => TRANSCDIFF_INT8,
            precision if precision.dtype() == DType::BF16 => TRANSCDIFF_BF16,
            _ => TRANSCDIFF_F32,
        },
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
        image_channels: info.image_channels().unwrap_or_default(),
        class_names: info.class_names.names().len(),
        distilled: generator.distilled.into(),
        reserved: 0,
    }
}
