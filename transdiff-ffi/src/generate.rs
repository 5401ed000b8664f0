//! Generation: what is asked for, what is reported on the way, and where the results go.

use std::ffi::c_void;
use std::ptr;

use transdiff::models::transdiff::Preset;
use transdiff::pipeline::LogLevel;

use crate::buffers::Buffers;
use crate::cancellation::transcdiff_cancellation;
use crate::log::{Log, transcdiff_log_callback};
use crate::model::transcdiff_model;
use crate::pixels::TRANSCDIFF_RGB8_HWC;
use crate::request::{check, report, request};
use crate::session::{session_of, transcdiff_session};
use crate::status::{guard, transcdiff_error, transcdiff_status};
use crate::versioned::{self, Versioned};

/// The paper's stochastic sampler: Euler–Maruyama with two scales, on the paper's times.
pub const TRANSCDIFF_SOLVER_EULER_MARUYAMA: u32 = 0;
/// Deterministic, order 1, on equal steps.
pub const TRANSCDIFF_SOLVER_EULER: u32 = 1;
/// Deterministic, order 2, on equal steps; two evaluations of the model a step.
pub const TRANSCDIFF_SOLVER_HEUN: u32 = 2;

/// A step of the sampler that was just done.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_progress {
    /// sizeof(transcdiff_progress) of the library.
    pub struct_size: usize,
    /// The first image of the batch that is being computed.
    pub first_image: usize,
    /// Number of images in the batch.
    pub images: usize,
    /// Which of the batch's trajectories is running, from 0: one in one step, with MRAR one for each group.
    pub ar_step: usize,
    /// How many trajectories there are.
    pub ar_steps: usize,
    /// How many steps of the trajectory are done, from 1.
    pub step: usize,
    /// How many steps the trajectory has.
    pub steps: usize,
    /// The time in (0, 1] from which the step was made.
    pub t: f64,
    /// Share of the whole call's steps that are done, in (0, 1].
    pub fraction: f64,
}

/// Called after every step, from the thread that made the call. Not 0: the call returns `TRANSCDIFF_CANCELLED`. It must not
/// use the session that is at work, and may use any other. Like every callback it ends by returning: not by an exception, a
/// longjmp, or the thread's cancellation or end.
pub type transcdiff_progress_callback =
    Option<unsafe extern "C" fn(progress: *const transcdiff_progress, user_data: *mut c_void) -> i32>;

/// Called like the progress callback, with the clean latents [images, C, h, w] of the batch as predicted at this step, in the
/// scale of the model: `count` floats that live until the callback returns.
pub type transcdiff_preview_callback = Option<
    unsafe extern "C" fn(
        progress: *const transcdiff_progress,
        latents: *const f32,
        count: usize,
        user_data: *mut c_void,
    ) -> i32,
>;

/// What is generated, and how. Set up by `transcdiff_generate_options_init`. Arrays belong to the caller and are not needed
/// any more when the call returns.
///
/// Images are made from `classes`, or from `features`; the other one is NULL.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_generate_options {
    /// sizeof(transcdiff_generate_options).
    pub struct_size: usize,
    /// Number n of images.
    pub images: usize,
    /// [n]: a class for each image.
    pub classes: *const u32,
    /// [n]: a seed for each image. With it the image is the same alone and in any batch.
    pub seeds: *const u64,
    /// Steps of the sampler; more take longer.
    pub steps: u32,
    /// One of `TRANSCDIFF_SOLVER_…`.
    pub solver: u32,
    /// Guidance, at least 1, which is none.
    pub guidance: f64,
    /// [step_guidance_count]: with MRAR, guidance for each trajectory in place of `guidance`. NULL: `guidance` for all.
    pub step_guidance: *const f64,
    /// 0, or the number of trajectories: the model's `groups`, 1 from features.
    pub step_guidance_count: usize,
    /// Guidance acts at times from this one, in [0, 1].
    pub guidance_low: f64,
    /// Guidance acts at times up to this one, in [0, 1].
    pub guidance_high: f64,
    /// The paper's s0, the factor of the drift, at least 0; for Euler–Maruyama.
    pub drift_scale: f64,
    /// The paper's s1, the factor of the injected noise, at least 0; for Euler–Maruyama.
    pub noise_scale: f64,
    /// How many images are computed at a time; 0: all. More take more memory, and change nothing else.
    pub batch: usize,
    /// [n, feature_count, feature_width]: semantic features to decode, which may have been cut or mixed.
    pub features: *const f32,
    /// Features of each image, 1 to the model's `feature_count`; 0 without features.
    pub feature_count: usize,
    /// [unconditional_images, feature_count, feature_width]: what guidance leads away from. NULL: the features for no class.
    pub unconditional: *const f32,
    /// 1 or n; 0 without unconditional features.
    pub unconditional_images: usize,
    /// [reference_count, n, C, h, w]: with MRAR, latents in the scale of the model to use in place of the first ones that it
    /// would generate.
    pub references: *const f32,
    /// Less than the model's `groups`; 0 without references.
    pub reference_count: usize,
    /// [n, C, h, w]: latents in the scale of the model to start from, at time 1, in place of the noise of the seeds. NULL: that
    /// noise.
    pub starting: *const f32,
    /// Stops the call from another thread. NULL: nothing does.
    pub cancellation: *const transcdiff_cancellation,
    /// Called after every step. May be NULL.
    pub progress: transcdiff_progress_callback,
    /// Called after every `preview_interval` steps. May be NULL.
    pub preview: transcdiff_preview_callback,
    /// At least 1.
    pub preview_interval: usize,
    /// Told what is done. May be NULL.
    pub log: transcdiff_log_callback,
    /// Handed to the callbacks.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C) without padding, begins with its size; pointers, numbers and nullable functions take any bits.
unsafe impl Versioned for transcdiff_generate_options {
    const NAME: &'static str = "transcdiff_generate_options";
}

fn defaults(preset: Preset) -> transcdiff_generate_options {
    transcdiff_generate_options {
        struct_size: size_of::<transcdiff_generate_options>(),
        images: 0,
        classes: ptr::null(),
        seeds: ptr::null(),
        steps: Preset::STEPS as u32,
        solver: TRANSCDIFF_SOLVER_EULER_MARUYAMA,
        guidance: preset.guidance,
        step_guidance: ptr::null(),
        step_guidance_count: 0,
        guidance_low: 0.0,
        guidance_high: 1.0,
        drift_scale: preset.drift_scale,
        noise_scale: preset.noise_scale,
        batch: 0,
        features: ptr::null(),
        feature_count: 0,
        unconditional: ptr::null(),
        unconditional_images: 0,
        references: ptr::null(),
        reference_count: 0,
        starting: ptr::null(),
        cancellation: ptr::null(),
        progress: None,
        preview: None,
        preview_interval: 10,
        log: None,
        user_data: ptr::null_mut(),
    }
}

/// Where results go. Set up by `transcdiff_outputs_init`. Every buffer is the caller's, exactly as large as what is written, and aligned;
/// NULL where something is not wanted, but not everywhere. Nothing is written unless the call succeeds.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct transcdiff_outputs {
    /// sizeof(transcdiff_outputs).
    pub struct_size: usize,
    /// One of `TRANSCDIFF_RGB8_HWC`, …: the format of `images`.
    pub pixel_format: u32,
    /// 0.
    pub reserved: u32,
    /// n images of the model's size one after another; takes a VAE.
    pub images: *mut c_void,
    /// In bytes: n · `transcdiff_pixel_bytes`.
    pub images_size: usize,
    /// [n, C, h, w], in the scale of the model.
    pub latents: *mut f32,
    /// In bytes.
    pub latents_size: usize,
    /// [groups − 1, n, C, h, w], in the scale of the model: with MRAR from classes, the latents that were references on the way.
    pub references: *mut f32,
    /// In bytes.
    pub references_size: usize,
    /// [n, k, feature_width]: the features that the latents were decoded from; k is the model's `feature_count`, or that of
    /// the features that were given.
    pub features: *mut f32,
    /// In bytes.
    pub features_size: usize,
}

// SAFETY: as above.
unsafe impl Versioned for transcdiff_outputs {
    const NAME: &'static str = "transcdiff_outputs";
}

const NO_OUTPUTS: transcdiff_outputs = transcdiff_outputs {
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

/// Sets every field of `options` to its default: for a published model the sampler's settings with which the paper reports its
/// results, for others and for NULL the plain sampler without guidance; 100 steps. `struct_size` is
/// sizeof(transcdiff_generate_options) as the caller's header has it. Any thread.
///
/// # Safety
/// `model` is NULL or was not freed; `options` is NULL or points to `struct_size` bytes that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_generate_options_init(
    model: *const transcdiff_model,
    options: *mut transcdiff_generate_options,
    struct_size: usize,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let preset = unsafe { model.as_ref() }.map_or(Preset::PLAIN, |m| m.pipeline.info().preset());
        // SAFETY: the caller promises it.
        unsafe { versioned::write(options, "options", struct_size, defaults(preset)) }
    };
    // SAFETY: no error object is asked for.
    unsafe { guard(ptr::null_mut(), body) }
}

/// Sets every field of `outputs` to its default: RGB8, rows of pixels, nothing wanted. `struct_size` is
/// sizeof(transcdiff_outputs) as the caller's header has it. Any thread.
///
/// # Safety
/// `outputs` is NULL or points to `struct_size` bytes that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_outputs_init(
    outputs: *mut transcdiff_outputs,
    struct_size: usize,
) -> transcdiff_status {
    // SAFETY: the caller promises it.
    unsafe { guard(ptr::null_mut(), || versioned::write(outputs, "outputs", struct_size, NO_OUTPUTS)) }
}

/// Generates images, latents or both. The same options give the same bytes, in any batch. One call a session at a time.
///
/// # Safety
/// The pointers, and those within the structs, are NULL or valid as their documentation says; buffers do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_generate(
    session: *mut transcdiff_session,
    options: *const transcdiff_generate_options,
    outputs: *const transcdiff_outputs,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let shared = session_of(session)?;
            let info = shared.info();
            let o = versioned::read(options, "options", defaults(info.preset()))?;
            let out = Buffers::new(versioned::read(outputs, "outputs", NO_OUTPUTS)?)?;
            check(info, &o)?;
            // Before anything is copied: a number of images that the buffers bear out is one that memory holds.
            out.check(info, &o)?;
            let mut session = shared.enter(o.cancellation)?;
            let request = request(info, &o, out.wanted())?;
            let log = Log { callback: o.log, user_data: o.user_data };
            log.message(LogLevel::Info, &format!("generating {} images in {} steps", o.images, o.steps));
            let made = session.generate(&request, &mut |step| report(&o, step))?;
            out.write(&made)
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}
