//! Rust wrappers that use the C ABI as a careful C program would, and models small enough for thousands of calls.

// Each test crate uses only a part of this module.
#![allow(dead_code)]

pub mod files;
pub mod sequences;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use transcdiff::*;

/// Status and texts of a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    pub status: transcdiff_status,
    pub message: String,
    pub subject: String,
    pub expected: String,
    pub got: String,
}

fn text(from: *const c_char) -> String {
    // SAFETY: strings of the library end with a zero byte.
    unsafe { CStr::from_ptr(from) }.to_str().unwrap().to_owned()
}

/// Makes a call and checks the contract of errors: an error object if and only if the status is not OK, with the same
/// status and a message.
pub fn call(f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status) -> Result<(), ErrorInfo> {
    let mut error = ptr::without_provenance_mut(8);
    let status = f(&mut error);
    if status == TRANSCDIFF_OK {
        assert!(error.is_null(), "success with an error object");
        return Ok(());
    }
    assert!(!error.is_null(), "status {status} without an error object");
    // SAFETY: the error comes from the library and is freed once.
    let failed = unsafe {
        let failed = ErrorInfo {
            status: transcdiff_error_status(error),
            message: text(transcdiff_error_message(error)),
            subject: text(transcdiff_error_subject(error)),
            expected: text(transcdiff_error_expected(error)),
            got: text(transcdiff_error_got(error)),
        };
        transcdiff_error_free(error);
        failed
    };
    assert_eq!(failed.status, status);
    assert!(!failed.message.is_empty());
    assert!(status <= TRANSCDIFF_INTERNAL && failed.status != TRANSCDIFF_INTERNAL, "{failed:?}");
    Err(failed)
}

/// Asserts that the call fails with `status` and `subject`.
#[track_caller]
pub fn expect_error(
    status: transcdiff_status,
    subject: &str,
    f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status,
) {
    let failed = call(f).expect_err(subject);
    assert_eq!((failed.status, &*failed.subject), (status, subject), "{failed:?}");
    assert!(failed.message.contains(subject), "{failed:?}");
}

pub fn load_options() -> transcdiff_load_options {
    // SAFETY: zeros are a valid value of the struct, and its size is passed.
    unsafe {
        let mut options: transcdiff_load_options = std::mem::zeroed();
        assert_eq!(transcdiff_load_options_init(&mut options, size_of_val(&options)), TRANSCDIFF_OK);
        // Results do not depend on the number of threads, and tests run in parallel.
        transcdiff_load_options { threads: 1, ..options }
    }
}

/// Options that load the model and an optional VAE from memory.
pub fn load_from_memory(model: &[u8], vae: Option<&[u8]>) -> transcdiff_load_options {
    transcdiff_load_options {
        model_data: model.as_ptr().cast(),
        model_size: model.len(),
        codec_data: vae.map_or(ptr::null(), |vae| vae.as_ptr().cast()),
        codec_size: vae.map_or(0, <[u8]>::len),
        ..load_options()
    }
}

/// Model handle, freed on drop.
#[derive(Debug)]
pub struct Model(pub *mut transcdiff_model);

// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Send for Model {}
// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Sync for Model {}

impl Model {
    pub fn load(options: &transcdiff_load_options) -> Result<Self, ErrorInfo> {
        let mut model = ptr::without_provenance_mut(8);
        // SAFETY: the pointers of the options come from the test and are valid.
        let result = call(|error| unsafe { transcdiff_model_load(options, &mut model, error) });
        assert_eq!(model.is_null(), result.is_err());
        result.map(|()| Self(model))
    }

    pub fn from_memory(model: &[u8], vae: Option<&[u8]>) -> Self {
        Self::load(&load_from_memory(model, vae)).unwrap()
    }

    pub fn from_path(path: &std::path::Path) -> Result<Self, ErrorInfo> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        Self::load(&transcdiff_load_options { model_path: path.as_ptr(), ..load_options() })
    }

    pub fn info(&self) -> transcdiff_model_info {
        // SAFETY: the model is alive, and the struct holds its size.
        unsafe {
            let mut info: transcdiff_model_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info);
            call(|error| transcdiff_model_get_info(self.0, &mut info, error)).unwrap();
            info
        }
    }

    pub fn session(&self) -> Session {
        let mut session = ptr::null_mut();
        // SAFETY: the model is alive.
        call(|error| unsafe { transcdiff_session_new(self.0, &mut session, error) }).unwrap();
        Session { session, info: self.info() }
    }

    pub fn generate_options(&self) -> transcdiff_generate_options {
        // SAFETY: the model is alive; zeros are a valid value of the struct.
        unsafe {
            let mut options: transcdiff_generate_options = std::mem::zeroed();
            let status = transcdiff_generate_options_init(self.0, &mut options, size_of_val(&options));
            assert_eq!(status, TRANSCDIFF_OK);
            options
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { transcdiff_model_free(self.0) }
    }
}

pub fn no_outputs() -> transcdiff_outputs {
    // SAFETY: zeros are a valid value of the struct.
    unsafe {
        let mut outputs: transcdiff_outputs = std::mem::zeroed();
        assert_eq!(transcdiff_outputs_init(&mut outputs, size_of_val(&outputs)), TRANSCDIFF_OK);
        outputs
    }
}

/// All results of a generation; those that the model does not provide are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    pub latents: Vec<f32>,
    pub references: Vec<f32>,
    pub features: Vec<f32>,
    pub images: Vec<u8>,
}

/// Session handle, freed on drop.
pub struct Session {
    pub session: *mut transcdiff_session,
    pub info: transcdiff_model_info,
}

// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Send for Session {}
// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Sync for Session {}

impl Session {
    /// Number of values per latent.
    pub fn latent(&self) -> usize {
        self.info.latent_channels * self.info.latent_height * self.info.latent_width
    }

    /// Number of values of `k` features.
    pub fn features(&self, k: usize) -> usize {
        k * self.info.feature_width
    }

    pub fn run(&self, o: &transcdiff_generate_options, out: &transcdiff_outputs) -> Result<(), ErrorInfo> {
        // SAFETY: the pointers come from the test and are valid.
        call(|error| unsafe { transcdiff_session_generate(self.session, o, out, error) })
    }

    /// Generates with buffers for all results of the model.
    pub fn generate(&self, o: &transcdiff_generate_options) -> Result<Outputs, ErrorInfo> {
        let (n, latent) = (o.images, self.latent());
        let from_classes = !o.classes.is_null();
        let steps = if from_classes { self.info.ar_steps - 1 } else { 0 };
        let k = if from_classes { self.info.feature_count } else { o.feature_count };
        let pixels = 3 * self.info.image_height * self.info.image_width;
        let mut outputs = Outputs {
            latents: vec![f32::NAN; n * latent],
            references: vec![f32::NAN; steps * n * latent],
            features: vec![f32::NAN; n * self.features(k)],
            images: vec![0; n * pixels],
        };
        let out = transcdiff_outputs {
            latents: outputs.latents.as_mut_ptr(),
            latents_size: size_of_val(&*outputs.latents),
            references: outputs.references.as_mut_ptr(),
            references_size: size_of_val(&*outputs.references),
            features: outputs.features.as_mut_ptr(),
            features_size: size_of_val(&*outputs.features),
            images: if pixels == 0 { ptr::null_mut() } else { outputs.images.as_mut_ptr().cast() },
            images_size: outputs.images.len(),
            ..no_outputs()
        };
        self.run(o, &out).map(|()| outputs)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { transcdiff_session_free(self.session) }
    }
}

/// Classes, seeds and step count of a generation; owns the arrays of its options.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    pub classes: Vec<u32>,
    pub seeds: Vec<u64>,
    pub steps: u32,
}

impl GenerationRequest {
    /// Request of `n` images of the classes 0, 1, 2, 0, …
    pub fn new(n: usize, steps: u32) -> Self {
        Self { classes: (0..n as u32).map(|i| i % 3).collect(), seeds: (0..n as u64).collect(), steps }
    }

    /// Options with guidance, from classes.
    pub fn options(&self, model: &Model) -> transcdiff_generate_options {
        transcdiff_generate_options {
            images: self.classes.len(),
            classes: self.classes.as_ptr(),
            seeds: self.seeds.as_ptr(),
            steps: self.steps,
            guidance: 1.5,
            ..model.generate_options()
        }
    }

    /// Options without a model: the tiny models have no settings of their own.
    pub fn plain_options(&self) -> transcdiff_generate_options {
        self.options(&Model(ptr::null_mut()))
    }
}

/// Cancellation token, freed on drop.
#[derive(Debug)]
pub struct Token(pub *mut transcdiff_cancellation);

// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Send for Token {}
// SAFETY: the header documents the handle as usable from any thread.
unsafe impl Sync for Token {}

impl Token {
    pub fn new() -> Self {
        let token = transcdiff_cancellation_new();
        assert!(!token.is_null());
        Self(token)
    }

    pub fn cancel(&self) {
        // SAFETY: the token is alive, here and below.
        unsafe { transcdiff_cancellation_cancel(self.0) }
    }

    pub fn reset(&self) {
        // SAFETY: as above.
        unsafe { transcdiff_cancellation_reset(self.0) }
    }

    pub fn is_cancelled(&self) -> bool {
        // SAFETY: as above.
        unsafe { transcdiff_cancellation_is_cancelled(self.0) == 1 }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { transcdiff_cancellation_free(self.0) }
    }
}

/// Progress callback that calls a Rust closure: `user_data` is a `&mut F`.
///
/// # Safety
/// `user_data` is a `&mut F` that is not used otherwise meanwhile, and `progress` comes from the library.
pub unsafe extern "C" fn on_progress<F: FnMut(&transcdiff_progress) -> i32>(
    progress: *const transcdiff_progress,
    user_data: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises it.
    unsafe { (*user_data.cast::<F>())(&*progress) }
}

/// Options with `f` as the progress callback.
pub fn with_progress<F: FnMut(&transcdiff_progress) -> i32>(
    options: &transcdiff_generate_options,
    f: &mut F,
) -> transcdiff_generate_options {
    transcdiff_generate_options {
        progress: Some(on_progress::<F>),
        user_data: ptr::from_mut(f).cast(),
        ..*options
    }
}
