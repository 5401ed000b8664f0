//! Options, outputs and callbacks of a generation.

use std::ffi::c_void;
use std::ptr;

use transdiff::diffusion::{Preset, SamplingSettings, Schedule, SolverKind};
use transdiff::models::GeneratorInfo;

use crate::cancellation::transcdiff_cancellation;
use crate::log::transcdiff_log_callback;
use crate::model::transcdiff_model;
use crate::pixel_format::TRANSCDIFF_RGB8_HWC;
use crate::status::{guard, transcdiff_status};
use crate::versioned::{self, Versioned};

/// Euler–Maruyama: the paper's stochastic solver with drift and noise scales, on the paper's timesteps.
pub const TRANSCDIFF_SOLVER_EULER_MARUYAMA: u32 = 0;
/// Euler: deterministic, first order, on uniform timesteps.
pub const TRANSCDIFF_SOLVER_EULER: u32 = 1;
/// Heun: deterministic, second order, on uniform timesteps, with two model evaluations per step.
pub const TRANSCDIFF_SOLVER_HEUN: u32 = 2;
/// Exponential integrator of the paper's SDE with drift and noise scales, first or second order, on the paper's timesteps, for
/// fewer steps.
pub const TRANSCDIFF_SOLVER_EXPONENTIAL_SDE: u32 = 3;
/// Adams–Bashforth: deterministic, through the velocities of the last 2 to 4 steps, on uniform timesteps, for fewer steps.
pub const TRANSCDIFF_SOLVER_ADAMS_BASHFORTH: u32 = 4;
/// Consistency: stochastic, for distilled models only, on uniform timesteps.
pub const TRANSCDIFF_SOLVER_CONSISTENCY: u32 = 5;

/// Code of a solver.
pub(crate) fn solver_code(solver: SolverKind) -> u32 {
    match solver {
        SolverKind::EulerMaruyama => TRANSCDIFF_SOLVER_EULER_MARUYAMA,
        SolverKind::Euler => TRANSCDIFF_SOLVER_EULER,
        SolverKind::Heun => TRANSCDIFF_SOLVER_HEUN,
        SolverKind::ExponentialSde => TRANSCDIFF_SOLVER_EXPONENTIAL_SDE,
        SolverKind::AdamsBashforth => TRANSCDIFF_SOLVER_ADAMS_BASHFORTH,
        SolverKind::Consistency => TRANSCDIFF_SOLVER_CONSISTENCY,
    }
}

/// No quality: solver and steps are those of the options.
pub const TRANSCDIFF_QUALITY_NONE: u32 = 0;
/// Draft: the exponential integrator of order 2 in 8 steps, 6 for references.
pub const TRANSCDIFF_QUALITY_DRAFT: u32 = 1;
/// Fast: the exponential integrator of order 2 in 16 steps, 10 for references.
pub const TRANSCDIFF_QUALITY_FAST: u32 = 2;
/// Paper: Euler–Maruyama in 100 steps.
pub const TRANSCDIFF_QUALITY_PAPER: u32 = 3;

/// Progress of a generation after a sampling step.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_progress {
    /// sizeof(transcdiff_progress) in the library.
    pub struct_size: usize,
    /// Index of the first image of the current batch.
    pub first_image: usize,
    /// Number of images in the current batch.
    pub images: usize,
    /// Index of the current AR step, from 0.
    pub ar_step: usize,
    /// Number of AR steps: the `ar_steps` of the model, or 1 from features.
    pub ar_steps: usize,
    /// Number of completed sampling steps of the current AR step, from 1.
    pub step: usize,
    /// Number of sampling steps of the current AR step.
    pub steps: usize,
    /// Time in (0, 1] at which the sampling step started.
    pub t: f64,
    /// Completed fraction of all sampling steps of the call, in (0, 1].
    pub fraction: f64,
}

/// Progress callback, invoked after every sampling step on the calling thread. `progress` is valid until the callback returns.
/// A return value other than 0 stops the call, which then fails with `TRANSCDIFF_CANCELLED`.
///
/// The callback may use other sessions; calls on the running one fail with `TRANSCDIFF_BUSY`. Like every callback it must
/// return normally: no exception, longjmp or thread exit may leave it.
pub type transcdiff_progress_callback =
    Option<unsafe extern "C" fn(progress: *const transcdiff_progress, user_data: *mut c_void) -> i32>;

/// Preview callback, invoked after the progress callback and with the same rules. `latents` are the denoised latents
/// [images, C, h, w] of the current batch as predicted at this step, in the scale of the model: `count` floats that are
/// valid until the callback returns.
pub type transcdiff_preview_callback = Option<
    unsafe extern "C" fn(
        progress: *const transcdiff_progress,
        latents: *const f32,
        count: usize,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Options of a generation. Initialise with `transcdiff_generate_options_init`.
///
/// Images are generated from `classes` or from `features`; the other one is NULL. Arrays belong to the caller, and are not
/// used after the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_generate_options {
    /// sizeof(transcdiff_generate_options).
    pub struct_size: usize,
    /// Number of images, n, at least 1.
    pub images: usize,
    /// Class per image, [n]; `transcdiff_model_find_class` finds a class by its name.
    pub classes: *const u32,
    /// Seed per image, [n]. The noise of an image depends on its own seed only, so it is the same in any batch.
    pub seeds: *const u64,
    /// Number of sampling steps, at least 1.
    pub steps: u32,
    /// Solver: one of `TRANSCDIFF_SOLVER_…`.
    pub solver: u32,
    /// Guidance scale, at least 1; 1 disables guidance, and is all that a distilled model takes.
    pub guidance: f64,
    /// Guidance scale per AR step, [ar_step_guidance_count], overriding `guidance`. NULL: `guidance` for every AR step.
    pub ar_step_guidance: *const f64,
    /// Number of elements of `ar_step_guidance`: 0 or the number of AR steps, which is the model's `ar_steps`, or 1 from
    /// features.
    pub ar_step_guidance_count: usize,
    /// Lower end of the time interval with guidance, in [0, 1].
    pub guidance_low: f64,
    /// Upper end of the time interval with guidance, in [0, 1].
    pub guidance_high: f64,
    /// Scale of the drift, s0 in the paper, at least 0; ignored by solvers without scales.
    pub drift_scale: f64,
    /// Scale of the injected noise, s1 in the paper, at least 0; ignored by solvers without scales.
    pub noise_scale: f64,
    /// Number of images per batch; 0 means all. Larger batches take more memory and give the same images.
    pub batch: usize,
    /// Semantic features to decode, [n, feature_count, feature_width], possibly truncated or spliced.
    pub features: *const f32,
    /// Number of features per image, 1 to the model's `feature_count`; 0 without features.
    pub feature_count: usize,
    /// Unconditional features for classifier-free guidance, [unconditional_images, feature_count, feature_width]. NULL: the
    /// model's unconditional features. Required if a guidance scale is above 1 and `features` span several AR steps.
    pub unconditional: *const f32,
    /// Number of images in `unconditional`: 1 or n; 0 for NULL.
    pub unconditional_images: usize,
    /// Latents of reference images, [reference_count, n, C, h, w], in the scale of the model. With MRAR they replace the
    /// results of the first `reference_count` AR steps.
    pub references: *const f32,
    /// Number of references per image, less than the model's `ar_steps`; 0 without references.
    pub reference_count: usize,
    /// Initial noise, [n, C, h, w], in the scale of the model: the state at time 1. NULL: noise generated from the seeds.
    pub initial_noise: *const f32,
    /// Cancellation token, or NULL. It must outlive the call.
    pub cancellation: *const transcdiff_cancellation,
    /// Progress callback, invoked after every sampling step, or NULL.
    pub progress: transcdiff_progress_callback,
    /// Preview callback, invoked after every `preview_interval` sampling steps, or NULL.
    pub preview: transcdiff_preview_callback,
    /// Number of sampling steps of an AR step between previews, at least 1.
    pub preview_interval: usize,
    /// Callback for log messages, or NULL.
    pub log: transcdiff_log_callback,
    /// Pointer passed to the callbacks.
    pub user_data: *mut c_void,
    /// Order of the solver: 1 or 2 for the exponential integrator, 2 to 4 for Adams–Bashforth; 0 means 2. Ignored by other solvers.
    pub order: u32,
    /// Tested combination of solver, order, and numbers and times of steps, which overrides these options and the extrapolation:
    /// one of `TRANSCDIFF_QUALITY_…`; none for distilled models.
    pub quality: u32,
    /// Number of sampling steps per AR step, [ar_step_steps_count], overriding `steps`. NULL: `steps` for every AR step.
    pub ar_step_steps: *const u32,
    /// Number of elements of `ar_step_steps`: 0 or the number of AR steps, as for `ar_step_guidance_count`.
    pub ar_step_steps_count: usize,
    /// Times of the sampling steps of every AR step, [time_count], overriding `steps`: all of them, falling strictly from 1 (noise)
    /// to 0; without `ar_step_steps` and `warp`. NULL: times that go with the solver.
    pub times: *const f64,
    /// Number of elements of `times`: 0 or at least 2.
    pub time_count: usize,
    /// Three exponents a, b, c above 0 that warp the times of n sampling steps, at most 1000000, to 1 − (1 − (1 − uᵃ)ᵇ)ᶜ with
    /// u = i/n, or NULL.
    pub warp: *const f64,
    /// Extrapolation of Euler's predictions, from 0 to below 1; ignored by other solvers.
    pub extrapolation: f64,
}

// SAFETY: repr(C) without padding, begins with its size; every bit pattern is a valid pointer, number or nullable function.
unsafe impl Versioned for transcdiff_generate_options {
    const NAME: &'static str = "transcdiff_generate_options";
}

/// Options with the default sampling settings of a model; `None` for those of any.
pub(crate) fn default_options(model: Option<&GeneratorInfo>) -> transcdiff_generate_options {
    let settings = model.map_or(SamplingSettings::from(Preset::PLAIN), GeneratorInfo::settings);
    // A test holds these options to be those settings: they have one number of steps and one guidance scale.
    let steps = match &settings.schedule {
        Schedule::Steps(steps) => steps[0],
        Schedule::Warped(..) | Schedule::Times(_) => 0,
    };
    transcdiff_generate_options {
        struct_size: size_of::<transcdiff_generate_options>(),
        images: 0,
        classes: ptr::null(),
        seeds: ptr::null(),
        steps: steps as u32,
        solver: solver_code(settings.solver),
        guidance: settings.guidance[0],
        ar_step_guidance: ptr::null(),
        ar_step_guidance_count: 0,
        guidance_low: settings.guidance_interval.0,
        guidance_high: settings.guidance_interval.1,
        drift_scale: settings.drift_scale.unwrap_or(1.0),
        noise_scale: settings.noise_scale.unwrap_or(1.0),
        batch: 0,
        features: ptr::null(),
        feature_count: 0,
        unconditional: ptr::null(),
        unconditional_images: 0,
        references: ptr::null(),
        reference_count: 0,
        initial_noise: ptr::null(),
        cancellation: ptr::null(),
        progress: None,
        preview: None,
        preview_interval: 10,
        log: None,
        user_data: ptr::null_mut(),
        order: 0,
        quality: TRANSCDIFF_QUALITY_NONE,
        ar_step_steps: ptr::null(),
        ar_step_steps_count: 0,
        times: ptr::null(),
        time_count: 0,
        warp: ptr::null(),
        extrapolation: 0.0,
    }
}

/// Buffers for the results of a generation. Initialise with `transcdiff_outputs_init`.
///
/// Buffers belong to the caller, are aligned, and have exactly the size of the result. NULL omits a result; at least one
/// buffer must be set. A failed call writes nothing.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_outputs {
    /// sizeof(transcdiff_outputs).
    pub struct_size: usize,
    /// Pixel format of `images`: one of `TRANSCDIFF_RGB8_HWC`, `_RGB8_CHW`, `_F32_HWC`, `_F32_CHW`; for models
    /// of one image channel also `TRANSCDIFF_GRAY8`, `_GRAY_F32`.
    pub pixel_format: u32,
    /// Reserved; must be 0.
    pub reserved: u32,
    /// Images of the model's size, [n] contiguous images, or NULL. Requires a codec.
    pub images: *mut c_void,
    /// Size of `images` in bytes: n · `transcdiff_image_bytes`.
    pub images_size: usize,
    /// Latents, [n, C, h, w], in the scale of the model, or NULL.
    pub latents: *mut f32,
    /// Size of `latents` in bytes.
    pub latents_size: usize,
    /// Latents of the reference images, [ar_steps − 1, n, C, h, w], in the scale of the model, or NULL: with MRAR from classes,
    /// the results of all AR steps but the last. Empty in 1-step mode and from features.
    pub references: *mut f32,
    /// Size of `references` in bytes.
    pub references_size: usize,
    /// Semantic features that the latents were decoded from, [n, k, feature_width], or NULL. k is the model's `feature_count`,
    /// or `feature_count` of the options from features.
    pub features: *mut f32,
    /// Size of `features` in bytes.
    pub features_size: usize,
}

// SAFETY: as above.
unsafe impl Versioned for transcdiff_outputs {
    const NAME: &'static str = "transcdiff_outputs";
}

/// Outputs without any buffer.
pub(crate) const DEFAULT_OUTPUTS: transcdiff_outputs = transcdiff_outputs {
    struct_size: size_of::<transcdiff_outputs>(),
    pixel_format: TRANSCDIFF_RGB8_HWC,
    reserved: 0,
    images: ptr::null_mut(),
    images_size: 0,
    latents: ptr::null_mut(),
    latents_size: 0,
    references: ptr::null_mut(),
    references_size: 0,
    features: ptr::null_mut(),
    features_size: 0,
};

/// Sets every field of `options` to its default. The sampling settings are those of the paper's reported results for a
/// published model, and Euler–Maruyama without guidance for other models and NULL, with 100 sampling steps; for a distilled model
/// the consistency sampler with 2. `struct_size` is
/// sizeof(transcdiff_generate_options) in the caller's header.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL options and `TRANSCDIFF_INVALID_STRUCT` for an invalid size.
/// Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed; `options` is NULL or points to `struct_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_generate_options_init(
    model: *const transcdiff_model,
    options: *mut transcdiff_generate_options,
    struct_size: usize,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.map(|model| &model.pipeline.info().generator);
        // SAFETY: the caller promises it.
        unsafe { versioned::write(options, "options", struct_size, default_options(model)) }
    };
    // SAFETY: there is no error pointer.
    unsafe { guard(ptr::null_mut(), body) }
}

/// Sets every field of `outputs` to its default: no buffers, and the pixel format `TRANSCDIFF_RGB8_HWC`. `struct_size` is
/// sizeof(transcdiff_outputs) in the caller's header.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
///
/// # Safety
/// `outputs` is NULL or points to `struct_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_outputs_init(
    outputs: *mut transcdiff_outputs,
    struct_size: usize,
) -> transcdiff_status {
    // SAFETY: the caller promises it.
    unsafe { guard(ptr::null_mut(), || versioned::write(outputs, "outputs", struct_size, DEFAULT_OUTPUTS)) }
}
