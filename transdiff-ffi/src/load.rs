//! Loading: from files or memory to a model.

use std::ffi::{c_char, c_void};
use std::ptr;

use transdiff::checkpoint::WeightFile;
use transdiff::models::transdiff::{LoadHints, WeightSet};
use transdiff::pipeline::{LoadOptions, Pipeline};
use transdiff::{DType, Device};

use crate::input::{array, path, slot, text};
use crate::log::{Log, transcdiff_log_callback};
use crate::model::{TRANSCDIFF_BF16, TRANSCDIFF_F32, transcdiff_model};
use crate::status::{Failure, Outcome, guard, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// The averaged weights where the file has them, else the others.
pub const TRANSCDIFF_WEIGHTS_AUTO: u32 = 0;
/// The averaged weights (EMA); an error where the file has none.
pub const TRANSCDIFF_WEIGHTS_EMA: u32 = 1;
/// The weights that are not averaged.
pub const TRANSCDIFF_WEIGHTS_MODEL: u32 = 2;

/// How a model is loaded. Set up by `transcdiff_load_options_init`.
///
/// A model, and the VAE, come from a path or from memory: exactly one of the two is set for the model, at most one for the
/// VAE. Formats (safetensors, PyTorch's `.pth` and `.ckpt`) are told by their contents.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_load_options {
    /// sizeof(transcdiff_load_options).
    pub struct_size: usize,
    /// The model's file: on Unix any bytes, elsewhere UTF-8.
    pub model_path: *const c_char,
    /// The model's file in memory. Not needed any more when the call returns.
    pub model_data: *const c_void,
    /// Its size in bytes.
    pub model_size: usize,
    /// The VAE's file, as `model_path`. Without a VAE the model gives latents.
    pub vae_path: *const c_char,
    /// The VAE's file in memory. Not needed any more when the call returns.
    pub vae_data: *const c_void,
    /// Its size in bytes.
    pub vae_size: usize,
    /// "cpu", "cuda", "cuda:N" or "auto", which NULL means too.
    pub device: *const c_char,
    /// `TRANSCDIFF_F32` or `TRANSCDIFF_BF16`: the type that the model computes in.
    pub dtype: u32,
    /// Threads of the CPU; 0: one a core.
    pub threads: u32,
    /// `TRANSCDIFF_WEIGHTS_AUTO`, `_EMA` or `_MODEL`.
    pub weights: u32,
    /// Attention heads of a model whose file does not tell them; 0: the file, or the published sizes, tell.
    pub heads: u32,
    /// Not 0: files are mapped instead of read, and the caller promises that nobody changes or truncates them during the
    /// call. 0: files may change underneath.
    pub map_files: u32,
    /// 0.
    pub reserved: u32,
    /// Told what was chosen, and why. May be NULL.
    pub log: transcdiff_log_callback,
    /// Handed to `log`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C) without padding, begins with its size; pointers, integers and nullable functions take any bits.
unsafe impl Versioned for transcdiff_load_options {
    const NAME: &'static str = "transcdiff_load_options";
}

const LOAD_DEFAULTS: transcdiff_load_options = transcdiff_load_options {
    struct_size: size_of::<transcdiff_load_options>(),
    model_path: ptr::null(),
    model_data: ptr::null(),
    model_size: 0,
    vae_path: ptr::null(),
    vae_data: ptr::null(),
    vae_size: 0,
    device: ptr::null(),
    dtype: TRANSCDIFF_F32,
    threads: 0,
    weights: TRANSCDIFF_WEIGHTS_AUTO,
    heads: 0,
    map_files: 0,
    reserved: 0,
    log: None,
    user_data: ptr::null_mut(),
};

/// What loading and generating will take, in bytes. Host memory on the CPU, the device's elsewhere.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_memory {
    /// sizeof(transcdiff_memory).
    pub struct_size: usize,
    /// Kept while the model lives: the weights of model and VAE.
    pub weights: u64,
    /// On top of what is kept, while it is loaded.
    pub loading: u64,
    /// On top of the weights, while the images of one batch are generated.
    pub generation: u64,
}

// SAFETY: as above.
unsafe impl Versioned for transcdiff_memory {
    const NAME: &'static str = "transcdiff_memory";
}

/// Sets every field of `options` to its default. `struct_size` is sizeof(transcdiff_load_options) as the caller's header
/// has it. Any thread.
///
/// # Safety
/// `options` is NULL or points to `struct_size` bytes that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_load_options_init(
    options: *mut transcdiff_load_options,
    struct_size: usize,
) -> transcdiff_status {
    // SAFETY: the caller promises it.
    unsafe { guard(ptr::null_mut(), || versioned::write(options, "options", struct_size, LOAD_DEFAULTS)) }
}

/// Loads a model to `*model`, which is NULL if that fails. Any thread.
///
/// # Safety
/// The pointers are NULL or valid as their documentation says; `model` and `error` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_load(
    options: *const transcdiff_load_options,
    model: *mut *mut transcdiff_model,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let slot = unsafe { slot(model, "model") }?;
        // SAFETY: the caller promises that the options are as their documentation says.
        let inputs = unsafe { Inputs::read(options) }?;
        let mut log = |level, message: &str| inputs.log.message(level, message);
        let pipeline = Pipeline::load(&inputs.model, inputs.vae.as_ref(), &inputs.options, &mut log)?;
        // SAFETY: the caller promises that it can be written.
        unsafe { slot.write(Box::into_raw(Box::new(transcdiff_model::new(pipeline)))) };
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Estimates, from the headers of the files alone, what loading with `options` and generating `images` images at a time
/// will take. Any thread.
///
/// # Safety
/// As `transcdiff_model_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_memory_estimate(
    options: *const transcdiff_load_options,
    images: usize,
    memory: *mut transcdiff_memory,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises that the options are as their documentation says.
        let inputs = unsafe { Inputs::read(options) }?;
        let e = Pipeline::estimate(&inputs.model, inputs.vae.as_ref(), &inputs.options, images)?;
        let value = transcdiff_memory {
            struct_size: size_of::<transcdiff_memory>(),
            weights: e.weights,
            loading: e.loading,
            generation: e.generation,
        };
        // SAFETY: the caller promises it.
        unsafe { versioned::fill(memory, "memory", value) }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// What the options say, with the files opened.
struct Inputs {
    model: WeightFile,
    vae: Option<WeightFile>,
    options: LoadOptions,
    log: Log,
}

impl Inputs {
    /// # Safety
    /// `options` is NULL or as its documentation says.
    unsafe fn read(options: *const transcdiff_load_options) -> Outcome<Self> {
        // SAFETY: the caller promises what the functions called here ask for.
        let (o, model, vae, device) = unsafe {
            let o = versioned::read(options, "options", LOAD_DEFAULTS)?;
            let map = o.map_files != 0;
            let model = open("model", o.model_path, o.model_data, o.model_size, map)?;
            let vae = open("vae", o.vae_path, o.vae_data, o.vae_size, map)?;
            (o, model, vae, text(o.device, "device")?.unwrap_or("auto"))
        };
        let model = model.ok_or_else(|| Failure::argument("model", "model_path or model_data", "neither"))?;
        let device: Device = device.parse()?;
        let options = LoadOptions {
            device,
            dtype: dtype(o.dtype)?,
            threads: (o.threads != 0).then_some(o.threads as usize),
            hints: LoadHints {
                heads: (o.heads != 0).then_some(o.heads as usize),
                weights: weights(o.weights)?,
            },
        };
        if o.reserved != 0 {
            return Err(Failure::argument("reserved", "0", o.reserved));
        }
        Ok(Self { model, vae, options, log: Log { callback: o.log, user_data: o.user_data } })
    }
}

fn dtype(code: u32) -> Outcome<DType> {
    match code {
        TRANSCDIFF_F32 => Ok(DType::F32),
        TRANSCDIFF_BF16 => Ok(DType::BF16),
        other => Err(Failure::argument("dtype", "TRANSCDIFF_F32 or TRANSCDIFF_BF16", other)),
    }
}

fn weights(code: u32) -> Outcome<Option<WeightSet>> {
    match code {
        TRANSCDIFF_WEIGHTS_AUTO => Ok(None),
        TRANSCDIFF_WEIGHTS_EMA => Ok(Some(WeightSet::Ema)),
        TRANSCDIFF_WEIGHTS_MODEL => Ok(Some(WeightSet::Raw)),
        other => Err(Failure::argument("weights", "one of TRANSCDIFF_WEIGHTS_…", other)),
    }
}

/// The file `name`, from its path or from memory, if it was given.
///
/// # Safety
/// The pointers are as [`transcdiff_load_options`] says, and the memory outlives the file.
unsafe fn open(
    name: &'static str,
    file: *const c_char,
    data: *const c_void,
    size: usize,
    map: bool,
) -> Outcome<Option<WeightFile>> {
    // SAFETY: the caller promises it.
    match (unsafe { path(file, name) }?, data.is_null()) {
        (None, true) if size != 0 => Err(Failure::Null(name)),
        (None, true) => Ok(None),
        (Some(_), false) => Err(Failure::argument(name, "a path or memory", "both")),
        // SAFETY: whoever asks for mapping promises that the file stays as it is.
        (Some(path), true) if map => Ok(Some(unsafe { WeightFile::open_mapped(path) }?)),
        (Some(path), true) => Ok(Some(WeightFile::open(path)?)),
        (None, false) => {
            // SAFETY: the caller promises `size` bytes, which live until the call returns, as the file does.
            let bytes: &'static [u8] = unsafe { array(data.cast::<u8>(), size, name) }?;
            Ok(Some(WeightFile::from_bytes(format!("{name} in memory"), bytes)?))
        }
    }
}
