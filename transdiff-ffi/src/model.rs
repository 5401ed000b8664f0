//! Models: loaded once, shared by any number of sessions on any threads.

use std::ffi::{CString, c_char};

use transdiff::DType;
use transdiff::models::transdiff::Mode;
use transdiff::pipeline::Pipeline;

use crate::status::{Failure, guard, guard_value, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// Computes in f32.
pub const TRANSCDIFF_F32: u32 = 0;
/// Computes in bf16 with f32 sums; weights are kept in bf16.
pub const TRANSCDIFF_BF16: u32 = 1;

/// All features at once.
pub const TRANSCDIFF_MODE_ONE_STEP: u32 = 0;
/// Multi-reference autoregression (MRAR).
pub const TRANSCDIFF_MODE_MULTI_REFERENCE: u32 = 1;

/// What a model is.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_model_info {
    /// sizeof(transcdiff_model_info).
    pub struct_size: usize,
    /// Number of classes.
    pub classes: usize,
    /// `TRANSCDIFF_MODE_ONE_STEP` or `TRANSCDIFF_MODE_MULTI_REFERENCE`.
    pub mode: u32,
    /// `TRANSCDIFF_F32` or `TRANSCDIFF_BF16`.
    pub dtype: u32,
    /// Trajectories of one generation: 1 in one step, else as many as there are groups of features.
    pub groups: usize,
    /// Semantic features of an image.
    pub feature_count: usize,
    /// Values of a feature.
    pub feature_width: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Height of a latent.
    pub latent_height: usize,
    /// Width of a latent.
    pub latent_width: usize,
    /// Height of an image in pixels; 0 without a VAE.
    pub image_height: usize,
    /// Width of an image in pixels; 0 without a VAE.
    pub image_width: usize,
    /// Pixels for one position of a latent in both directions; 0 without a VAE.
    pub downsampling: usize,
    /// Values in the parameters of the model.
    pub parameters: u64,
    /// Values in the parameters of the VAE; 0 without one.
    pub vae_parameters: u64,
}

// SAFETY: repr(C) without padding, begins with its size; integers take any bits.
unsafe impl Versioned for transcdiff_model_info {
    const NAME: &'static str = "transcdiff_model_info";
}

/// A model on a device, with a VAE or without. It does not change: any number of sessions, on any threads, use it at the
/// same time. It can be freed while sessions live; its memory is given back with the last of them.
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

/// What the model is. Any thread.
///
/// # Safety
/// `model` is NULL or was not freed; `info` is NULL or points to a struct of the size that its first field says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_get_info(
    model: *const transcdiff_model,
    info: *mut transcdiff_model_info,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.ok_or(Failure::Null("model"))?;
        // SAFETY: the caller promises it.
        unsafe { versioned::fill(info, "info", info_of(&model.pipeline)) }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// The device's name, for people. It lives as long as the model; "" for NULL. Any thread.
///
/// # Safety
/// `model` is NULL or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_device(model: *const transcdiff_model) -> *const c_char {
    // SAFETY: the caller promises it.
    guard_value(c"".as_ptr(), || unsafe { model.as_ref() }.map_or(c"".as_ptr(), |m| m.device.as_ptr()))
}

/// Frees a model. NULL is nothing to free. Any thread.
///
/// # Safety
/// `model` is NULL or was not freed, and no other call is using the handle. Sessions may go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_free(model: *mut transcdiff_model) {
    if !model.is_null() {
        // SAFETY: the caller promises it; handles are made by `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(model) }));
    }
}

fn info_of(pipeline: &Pipeline) -> transcdiff_model_info {
    let info = pipeline.info();
    let (config, side) = (&info.config, info.image_size().unwrap_or(0));
    transcdiff_model_info {
        struct_size: size_of::<transcdiff_model_info>(),
        classes: config.classes,
        mode: match config.mode {
            Mode::OneStep => TRANSCDIFF_MODE_ONE_STEP,
            Mode::MultiReference { .. } => TRANSCDIFF_MODE_MULTI_REFERENCE,
        },
        dtype: if info.dtype == DType::BF16 { TRANSCDIFF_BF16 } else { TRANSCDIFF_F32 },
        groups: config.groups(),
        feature_count: config.feature_tokens,
        feature_width: config.width,
        latent_channels: config.latent_channels,
        latent_height: config.latent_size,
        latent_width: config.latent_size,
        image_height: side,
        image_width: side,
        downsampling: info.vae.as_ref().map_or(0, |vae| vae.downsampling),
        parameters: info.parameters as u64,
        vae_parameters: info.vae.as_ref().map_or(0, |vae| vae.parameters as u64),
    }
}
