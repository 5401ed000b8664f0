//! Loading models from files or memory, and estimating the memory required.

use std::ffi::{c_char, c_void};
use std::ptr;

use transdiff::checkpoint::WeightFile;
use transdiff::models::{CodecFile, CodecSource, LoadHints, StoredModel, WeightSet};
use transdiff::pipeline::{LoadOptions, Pipeline};
use transdiff::{DType, Device, Precision};

use crate::input::{array, out_handle, path, text};
use crate::log::{Log, transcdiff_log_callback};
use crate::model::{TRANSCDIFF_BF16, TRANSCDIFF_F32, TRANSCDIFF_INT8, transcdiff_model};
use crate::status::{FfiError, FfiResult, guard, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// EMA (exponential moving average) weights if the file contains them, else the raw weights. Loading fails if the file
/// contains EMA weights in a form that is not understood.
pub const TRANSCDIFF_WEIGHTS_AUTO: u32 = 0;
/// EMA weights; loading fails if the file does not contain them.
pub const TRANSCDIFF_WEIGHTS_EMA: u32 = 1;
/// Raw weights, without averaging.
pub const TRANSCDIFF_WEIGHTS_RAW: u32 = 2;

/// Value of `codec_path` for no codec.
const NO_CODEC: &str = "none";

/// Options for loading a model. Initialise with `transcdiff_load_options_init`.
///
/// Model and codec are read from a path or from memory: set exactly one of the two for the model, and at most one for the
/// codec. Formats (safetensors, PyTorch `.pth` and `.ckpt`) are detected from the contents. Strings and memory belong to the
/// caller, and are not used after the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_load_options {
    /// sizeof(transcdiff_load_options).
    pub struct_size: usize,
    /// Path of the model file: any bytes on Unix, UTF-8 elsewhere. A model in several safetensors files is given by the
    /// path of its index, such as `model.safetensors.index.json`, which stands in the same folder as they do.
    pub model_path: *const c_char,
    /// Contents of the model file in memory.
    pub model_data: *const c_void,
    /// Size of `model_data` in bytes.
    pub model_size: usize,
    /// Codec: the path of a KL-VAE, with the rules of `model_path`; "patch:N" for patches of N×N pixels; or "none". NULL
    /// takes the codec that the model file describes: a KL-VAE lies beside the model file, and its SHA-256 is checked.
    /// Without a codec the model generates latents only.
    pub codec_path: *const c_char,
    /// Contents of the codec file in memory.
    pub codec_data: *const c_void,
    /// Size of `codec_data` in bytes.
    pub codec_size: usize,
    /// Device: "cpu", "cuda", "cuda:N" or "auto"; NULL means "auto".
    pub device: *const c_char,
    /// Data type of the computation: `TRANSCDIFF_F32`, `TRANSCDIFF_BF16` or `TRANSCDIFF_INT8`.
    pub dtype: u32,
    /// Number of CPU threads; 0 means one thread per core.
    pub threads: u32,
    /// Weight set: `TRANSCDIFF_WEIGHTS_AUTO`, `_EMA` or `_RAW`.
    pub weights: u32,
    /// Number of attention heads, for files that do not contain it; 0 takes it from the file or from the published sizes.
    pub heads: u32,
    /// Not 0: memory-map files instead of reading them; the caller guarantees that they are not modified or truncated during
    /// the call. 0: read files, which may change meanwhile.
    pub map_files: u32,
    /// Reserved; must be 0.
    pub reserved: u32,
    /// Callback for log messages, or NULL.
    pub log: transcdiff_log_callback,
    /// Pointer passed to `log`.
    pub user_data: *mut c_void,
    /// Key of the dictionary that holds the weights of the model, such as "state_dict.model"; "" is the top level, NULL
    /// finds it. Required only if several are equally good, which the error says.
    pub key: *const c_char,
}

// SAFETY: repr(C) without padding, begins with its size; every bit pattern is a valid pointer, integer or nullable function.
unsafe impl Versioned for transcdiff_load_options {
    const NAME: &'static str = "transcdiff_load_options";
}

const LOAD_DEFAULTS: transcdiff_load_options = transcdiff_load_options {
    struct_size: size_of::<transcdiff_load_options>(),
    model_path: ptr::null(),
    model_data: ptr::null(),
    model_size: 0,
    codec_path: ptr::null(),
    codec_data: ptr::null(),
    codec_size: 0,
    device: ptr::null(),
    dtype: TRANSCDIFF_F32,
    threads: 0,
    weights: TRANSCDIFF_WEIGHTS_AUTO,
    heads: 0,
    map_files: 0,
    reserved: 0,
    log: None,
    user_data: ptr::null_mut(),
    key: ptr::null(),
};

/// Estimate of the memory for loading and generation, in bytes: host memory on the CPU, device memory elsewhere. Set
/// `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_memory {
    /// sizeof(transcdiff_memory).
    pub struct_size: usize,
    /// Memory of the weights of model and codec, held while the model lives.
    pub weights: u64,
    /// Additional memory during loading.
    pub loading: u64,
    /// Additional memory during the generation of one batch.
    pub generation: u64,
}

// SAFETY: as above.
unsafe impl Versioned for transcdiff_memory {
    const NAME: &'static str = "transcdiff_memory";
}

/// Sets every field of `options` to its default. `struct_size` is sizeof(transcdiff_load_options) in the caller's header.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
///
/// # Safety
/// `options` is NULL or points to `struct_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_load_options_init(
    options: *mut transcdiff_load_options,
    struct_size: usize,
) -> transcdiff_status {
    // SAFETY: the caller promises it.
    unsafe { guard(ptr::null_mut(), || versioned::write(options, "options", struct_size, LOAD_DEFAULTS)) }
}

/// Loads a model, and the codec if one is given or described by the model file, and returns the handle in `*model`, which is NULL on failure. The caller
/// owns the handle and frees it with `transcdiff_model_free`.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT`, `_INVALID_STRUCT` or `_INVALID_DTYPE` for invalid options,
/// `_DEVICE_UNAVAILABLE`, `_OUT_OF_MEMORY` or `_BACKEND` for the device, and `_IO`, `_FORMAT`, `_TENSOR` or
/// `_INVALID_CONFIG` for the files. Thread-safe.
///
/// # Safety
/// Each pointer is NULL or valid as documented; `model` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_model_load(
    options: *const transcdiff_load_options,
    model: *mut *mut transcdiff_model,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let out_handle = unsafe { out_handle(model, "model") }?;
        // SAFETY: the caller promises that the options are valid as documented.
        let inputs = unsafe { Inputs::read(options) }?;
        let mut log = |level, message: &str| inputs.log.message(level, message);
        let pipeline = Pipeline::load(&inputs.model, inputs.codec.as_ref(), &inputs.options, &mut log)?;
        // SAFETY: `out_handle` checked the pointer, which the caller promises is writable.
        unsafe { out_handle.write(Box::into_raw(Box::new(transcdiff_model::new(pipeline)))) };
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Estimates the memory for loading with `options` and generating batches of `images` images, from the file headers alone.
/// The caller sets `memory->struct_size`.
///
/// Fails as `transcdiff_model_load` does for the options and the files. Thread-safe.
///
/// # Safety
/// Each pointer is NULL or valid as documented; `memory` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_memory_estimate(
    options: *const transcdiff_load_options,
    images: usize,
    memory: *mut transcdiff_memory,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises that the options are valid as documented.
        let inputs = unsafe { Inputs::read(options) }?;
        let e = Pipeline::estimate(&inputs.model, inputs.codec.as_ref(), &inputs.options, images)?;
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

/// Validated load options with their files opened.
struct Inputs {
    model: WeightFile,
    codec: Option<CodecFile>,
    options: LoadOptions,
    log: Log,
}

impl Inputs {
    /// # Safety
    /// `options` is NULL or valid as documented.
    unsafe fn read(options: *const transcdiff_load_options) -> FfiResult<Self> {
        // SAFETY: the caller promises what the functions called here require.
        let (o, model, codec, device, key) = unsafe {
            let o = versioned::read(options, "options", LOAD_DEFAULTS)?;
            let map = o.map_files != 0;
            let model = open("model", o.model_path, o.model_data, o.model_size, map)?;
            let codec = Codec::read(&o)?;
            (o, model, codec, text(o.device, "device")?.unwrap_or("auto"), text(o.key, "key")?)
        };
        let model =
            model.ok_or_else(|| FfiError::argument("model", "model_path or model_data", "neither"))?;
        let device: Device = device.parse()?;
        let options = LoadOptions {
            device,
            precision: precision(o.dtype)?,
            threads: (o.threads != 0).then_some(o.threads as usize),
            hints: LoadHints {
                heads: (o.heads != 0).then_some(o.heads as usize),
                weights: weights(o.weights)?,
                key: key.map(str::to_owned),
            },
            latents_only: matches!(codec, Codec::None),
        };
        if o.reserved != 0 {
            return Err(FfiError::argument("reserved", "0", o.reserved));
        }
        let codec = match codec {
            Codec::Described | Codec::None => None,
            Codec::File(file) => Some(file.into()),
            Codec::Patch(source) => {
                let [code_channels, ..] = StoredModel::find(&model, &options.hints)?.info().code_shape;
                Some(source.open_for_codes(code_channels)?)
            }
        };
        Ok(Self { model, codec, options, log: Log { callback: o.log, user_data: o.user_data } })
    }
}

/// The caller's choice of a codec.
enum Codec {
    /// The codec that the model's file describes, if it describes one.
    Described,
    None,
    Patch(CodecSource),
    File(WeightFile),
}

impl Codec {
    /// # Safety
    /// The pointers within `o` are valid as [`transcdiff_load_options`] documents, and the memory outlives the file.
    unsafe fn read(o: &transcdiff_load_options) -> FfiResult<Self> {
        // SAFETY: the caller promises it.
        let given = unsafe { path(o.codec_path, "codec") }?;
        if o.codec_data.is_null() {
            match given.as_deref().map(CodecSource::try_from).transpose()? {
                Some(source @ CodecSource::Patch(_)) => return Ok(Self::Patch(source)),
                Some(CodecSource::File(path)) if path.as_os_str() == NO_CODEC => return Ok(Self::None),
                _ => {}
            }
        }
        // SAFETY: the caller promises it.
        let file = unsafe { open("codec", o.codec_path, o.codec_data, o.codec_size, o.map_files != 0) }?;
        Ok(file.map_or(Self::Described, Self::File))
    }
}

fn precision(code: u32) -> FfiResult<Precision> {
    match code {
        TRANSCDIFF_F32 => Ok(DType::F32.into()),
        TRANSCDIFF_BF16 => Ok(DType::BF16.into()),
        TRANSCDIFF_INT8 => Ok(Precision::INT8),
        other => {
            Err(FfiError::argument("dtype", "TRANSCDIFF_F32, TRANSCDIFF_BF16 or TRANSCDIFF_INT8", other))
        }
    }
}

fn weights(code: u32) -> FfiResult<Option<WeightSet>> {
    match code {
        TRANSCDIFF_WEIGHTS_AUTO => Ok(None),
        TRANSCDIFF_WEIGHTS_EMA => Ok(Some(WeightSet::Ema)),
        TRANSCDIFF_WEIGHTS_RAW => Ok(Some(WeightSet::Raw)),
        other => Err(FfiError::argument("weights", "one of TRANSCDIFF_WEIGHTS_…", other)),
    }
}

/// Opens the file of argument `name` from its path or from memory; `None` if neither is set.
///
/// # Safety
/// The pointers are valid as [`transcdiff_load_options`] documents, and the memory outlives the file.
unsafe fn open(
    name: &'static str,
    file: *const c_char,
    data: *const c_void,
    size: usize,
    map: bool,
) -> FfiResult<Option<WeightFile>> {
    // SAFETY: the caller promises it.
    match (unsafe { path(file, name) }?, data.is_null()) {
        (None, true) if size != 0 => Err(FfiError::Null(name)),
        (None, true) => Ok(None),
        (Some(_), false) => Err(FfiError::argument(name, "a path or memory", "both")),
        // SAFETY: by setting `map_files` the caller promises that the file does not change.
        (Some(path), true) if map => Ok(Some(unsafe { WeightFile::open_mapped(path) }?)),
        (Some(path), true) => Ok(Some(WeightFile::open(path)?)),
        (None, false) => {
            // SAFETY: the caller promises `size` bytes that live until the call returns; the file is dropped before that.
            let bytes: &'static [u8] = unsafe { array(data.cast::<u8>(), size, name) }?;
            Ok(Some(WeightFile::from_bytes(format!("{name} in memory"), bytes)?))
        }
    }
}
