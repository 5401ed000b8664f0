//! The C ABI from Rust, as a careful C program would use it, and models small enough for thousands of calls.

// Each test crate uses a part of this.
#![allow(dead_code)]

pub mod files;
pub mod sequences;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use transcdiff::*;

/// What a call that failed said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub status: transcdiff_status,
    pub message: String,
    pub subject: String,
    pub expected: String,
    pub got: String,
}

fn text(from: *const c_char) -> String {
    // SAFETY: the library's texts end with a zero byte.
    unsafe { CStr::from_ptr(from) }.to_str().unwrap().to_owned()
}

/// Makes a call and holds it to the contract of errors: an object exactly where the status is not OK, of that status,
/// with a message.
pub fn call(f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status) -> Result<(), Failed> {
    let mut error = ptr::without_provenance_mut(8);
    let status = f(&mut error);
    if status == TRANSCDIFF_OK {
        assert!(error.is_null(), "success comes without an error");
        return Ok(());
    }
    assert!(!error.is_null(), "status {status} comes with an error");
    // SAFETY: the error is the library's, and freed once.
    let failed = unsafe {
        let failed = Failed {
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

/// The call fails with `status` and says that it is about `subject`.
#[track_caller]
pub fn refused(
    status: transcdiff_status,
    subject: &str,
    f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status,
) {
    let failed = call(f).expect_err(subject);
    assert_eq!((failed.status, &*failed.subject), (status, subject), "{failed:?}");
    assert!(failed.message.contains(subject), "{failed:?}");
}

pub fn load_options() -> transcdiff_load_options {
    // SAFETY: zeros are a value of the struct, and its size is given.
    unsafe {
        let mut options: transcdiff_load_options = std::mem::zeroed();
        assert_eq!(transcdiff_load_options_init(&mut options, size_of_val(&options)), TRANSCDIFF_OK);
        // The numbers are the same with any number of threads; tests run beside each other.
        transcdiff_load_options { threads: 1, ..options }
    }
}

/// Options that take model, and VAE, from memory.
pub fn in_memory(model: &[u8], vae: Option<&[u8]>) -> transcdiff_load_options {
    transcdiff_load_options {
        model_data: model.as_ptr().cast(),
        model_size: model.len(),
        vae_data: vae.map_or(ptr::null(), |vae| vae.as_ptr().cast()),
        vae_size: vae.map_or(0, <[u8]>::len),
        ..load_options()
    }
}

/// A model, freed in the end.
#[derive(Debug)]
pub struct Model(pub *mut transcdiff_model);

// SAFETY: as the header says.
unsafe impl Send for Model {}
// SAFETY: as the header says.
unsafe impl Sync for Model {}

impl Model {
    pub fn load(options: &transcdiff_load_options) -> Result<Self, Failed> {
        let mut model = ptr::without_provenance_mut(8);
        // SAFETY: the options' pointers are those of the test, which are valid.
        let outcome = call(|error| unsafe { transcdiff_model_load(options, &mut model, error) });
        assert_eq!(model.is_null(), outcome.is_err());
        outcome.map(|()| Self(model))
    }

    pub fn from_memory(model: &[u8], vae: Option<&[u8]>) -> Self {
        Self::load(&in_memory(model, vae)).unwrap()
    }

    pub fn from_path(path: &std::path::Path) -> Result<Self, Failed> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        Self::load(&transcdiff_load_options { model_path: path.as_ptr(), ..load_options() })
    }

    pub fn info(&self) -> transcdiff_model_info {
        // SAFETY: the model lives, and the struct says its size.
        unsafe {
            let mut info: transcdiff_model_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info);
            call(|error| transcdiff_model_get_info(self.0, &mut info, error)).unwrap();
            info
        }
    }

    pub fn session(&self) -> Session {
        let mut session = ptr::null_mut();
        // SAFETY: the model lives.
        call(|error| unsafe { transcdiff_session_new(self.0, &mut session, error) }).unwrap();
        Session { session, info: self.info() }
    }

    pub fn generate_options(&self) -> transcdiff_generate_options {
        // SAFETY: the model lives; zeros are a value of the struct.
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
    // SAFETY: zeros are a value of the struct.
    unsafe {
        let mut outputs: transcdiff_outputs = std::mem::zeroed();
        assert_eq!(transcdiff_outputs_init(&mut outputs, size_of_val(&outputs)), TRANSCDIFF_OK);
        outputs
    }
}

/// Everything that a generation gives; what the model does not have is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    pub latents: Vec<f32>,
    pub references: Vec<f32>,
    pub features: Vec<f32>,
    pub images: Vec<u8>,
}

/// A session, freed in the end.
pub struct Session {
    pub session: *mut transcdiff_session,
    pub info: transcdiff_model_info,
}

// SAFETY: as the header says.
unsafe impl Send for Session {}
// SAFETY: as the header says.
unsafe impl Sync for Session {}

impl Session {
    /// Values of one latent.
    pub fn latent(&self) -> usize {
        self.info.latent_channels * self.info.latent_height * self.info.latent_width
    }

    /// Values of `k` features.
    pub fn features(&self, k: usize) -> usize {
        k * self.info.feature_width
    }

    pub fn run(&self, o: &transcdiff_generate_options, out: &transcdiff_outputs) -> Result<(), Failed> {
        // SAFETY: the pointers are those of the test, which are valid.
        call(|error| unsafe { transcdiff_session_generate(self.session, o, out, error) })
    }

    /// Generates with buffers for everything that the model can give.
    pub fn generate(&self, o: &transcdiff_generate_options) -> Result<Made, Failed> {
        let (n, latent) = (o.images, self.latent());
        let from_classes = !o.classes.is_null();
        let steps = if from_classes { self.info.groups - 1 } else { 0 };
        let k = if from_classes { self.info.feature_count } else { o.feature_count };
        let pixels = 3 * self.info.image_height * self.info.image_width;
        let mut made = Made {
            latents: vec![f32::NAN; n * latent],
            references: vec![f32::NAN; steps * n * latent],
            features: vec![f32::NAN; n * self.features(k)],
            images: vec![0; n * pixels],
        };
        let out = transcdiff_outputs {
            latents: made.latents.as_mut_ptr(),
            latents_size: size_of_val(&*made.latents),
            references: made.references.as_mut_ptr(),
            references_size: size_of_val(&*made.references),
            features: made.features.as_mut_ptr(),
            features_size: size_of_val(&*made.features),
            images: if pixels == 0 { ptr::null_mut() } else { made.images.as_mut_ptr().cast() },
            images_size: made.images.len(),
            ..no_outputs()
        };
        self.run(o, &out).map(|()| made)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { transcdiff_session_free(self.session) }
    }
}

/// Classes and seeds of a request, which outlive its options.
#[derive(Clone, Debug)]
pub struct Order {
    pub classes: Vec<u32>,
    pub seeds: Vec<u64>,
    pub steps: u32,
}

impl Order {
    /// `n` images of the classes 0, 1, 2, 0, …
    pub fn of(n: usize, steps: u32) -> Self {
        Self { classes: (0..n as u32).map(|i| i % 3).collect(), seeds: (0..n as u64).collect(), steps }
    }

    /// The options: guided, from classes.
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

    /// The same without a model: tiny ones have no settings of their own.
    pub fn plain_options(&self) -> transcdiff_generate_options {
        self.options(&Model(ptr::null_mut()))
    }
}

/// A cancellation flag, freed in the end.
#[derive(Debug)]
pub struct Flag(pub *mut transcdiff_cancellation);

// SAFETY: as the header says.
unsafe impl Send for Flag {}
// SAFETY: as the header says.
unsafe impl Sync for Flag {}

impl Flag {
    pub fn new() -> Self {
        let flag = transcdiff_cancellation_new();
        assert!(!flag.is_null());
        Self(flag)
    }

    pub fn cancel(&self) {
        // SAFETY: the flag lives, here and below.
        unsafe { transcdiff_cancellation_cancel(self.0) }
    }

    pub fn reset(&self) {
        // SAFETY: as above.
        unsafe { transcdiff_cancellation_reset(self.0) }
    }

    pub fn is_set(&self) -> bool {
        // SAFETY: as above.
        unsafe { transcdiff_cancellation_is_cancelled(self.0) == 1 }
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { transcdiff_cancellation_free(self.0) }
    }
}

/// Calls a Rust closure as a progress callback: `user_data` is a `&mut F`.
///
/// # Safety
/// `user_data` is a `&mut F` that nobody else uses, and `progress` is the library's.
pub unsafe extern "C" fn on_progress<F: FnMut(&transcdiff_progress) -> i32>(
    progress: *const transcdiff_progress,
    user_data: *mut c_void,
) -> i32 {
    // SAFETY: as promised.
    unsafe { (*user_data.cast::<F>())(&*progress) }
}

/// The options with `f` as their progress callback.
pub fn watched<F: FnMut(&transcdiff_progress) -> i32>(
    options: &transcdiff_generate_options,
    f: &mut F,
) -> transcdiff_generate_options {
    transcdiff_generate_options {
        progress: Some(on_progress::<F>),
        user_data: ptr::from_mut(f).cast(),
        ..*options
    }
}
