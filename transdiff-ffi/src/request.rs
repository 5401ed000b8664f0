//! Conversion of options to a pipeline request, and of solver steps to callbacks.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use transdiff::diffusion::{Euler, EulerMaruyama, Guidance, Heun, Interpolant, Solver, Timesteps};
use transdiff::models::transdiff::Sampling;
use transdiff::pipeline::{Info, Request, Source, Step, Wanted};
use transdiff::{Error, HostTensor};

use crate::input::{array, product, try_copy, try_map};
use crate::options::{
    TRANSCDIFF_SOLVER_EULER, TRANSCDIFF_SOLVER_EULER_MARUYAMA, TRANSCDIFF_SOLVER_HEUN,
    transcdiff_generate_options, transcdiff_progress,
};
use crate::status::{FfiError, FfiResult};

/// Checks the options that do not depend on the contents of arrays: counts, and the consistency of features and guidance.
pub(crate) fn check(info: &Info, o: &transcdiff_generate_options) -> FfiResult {
    if o.images == 0 {
        return Err(FfiError::argument("images", "at least 1", 0));
    }
    if o.preview.is_some() && o.preview_interval == 0 {
        return Err(FfiError::argument("preview_interval", "at least 1", 0));
    }
    let ar_steps = if o.features.is_null() { info.config.groups() } else { 1 };
    check_count("ar_step_guidance_count", o.ar_step_guidance_count, &[0, ar_steps])?;
    let max = info.config.feature_tokens;
    match o.features.is_null() {
        true if !o.unconditional.is_null() => {
            Err(FfiError::argument("unconditional", "NULL without features", "unconditional features"))
        }
        true => {
            check_count("feature_count", o.feature_count, &[0])?;
            check_count("unconditional_images", o.unconditional_images, &[0])
        }
        false if !(1..=max).contains(&o.feature_count) => {
            Err(FfiError::argument("feature_count", format!("1 to {max}"), o.feature_count))
        }
        false if o.unconditional.is_null() => {
            check_count("unconditional_images", o.unconditional_images, &[0])
        }
        false => check_count("unconditional_images", o.unconditional_images, &[1, o.images]),
    }
}

fn check_count(name: &'static str, count: usize, allowed: &[usize]) -> FfiResult {
    if allowed.contains(&count) {
        return Ok(());
    }
    let allowed: Vec<_> = allowed.iter().map(usize::to_string).collect();
    Err(FfiError::argument(name, allowed.join(" or "), count))
}

/// Builds the pipeline request described by the options.
///
/// # Safety
/// The pointers within `o` are valid as documented in the struct.
pub(crate) unsafe fn request(
    info: &Info,
    o: &transcdiff_generate_options,
    wanted: Wanted,
) -> FfiResult<Request> {
    let n = o.images;
    // SAFETY: the caller promises what the functions called here require.
    unsafe {
        let source = source(info, o)?;
        Ok(Request {
            source,
            seeds: try_copy(required(o.seeds, n, "seeds")?, "seeds")?,
            sampling: Sampling { solver: solver(o)?, guidance: guidance(o)? },
            references: references(info, o.references, o.reference_count, n)?,
            starting: match o.initial_noise.is_null() {
                true => None,
                false => Some(tensor(o.initial_noise, &info.config.latent_shape(n), "initial_noise")?),
            },
            batch: NonZeroUsize::new(o.batch),
            wanted,
        })
    }
}

/// # Safety
/// As [`array`].
unsafe fn required<'a, T>(from: *const T, len: usize, name: &'static str) -> FfiResult<&'a [T]> {
    if from.is_null() {
        return Err(FfiError::Null(name));
    }
    // SAFETY: the caller promises it.
    unsafe { array(from, len, name) }
}

/// # Safety
/// As [`request`].
unsafe fn source(info: &Info, o: &transcdiff_generate_options) -> FfiResult<Source> {
    match (o.classes.is_null(), o.features.is_null()) {
        (true, true) => Err(FfiError::argument("classes", "classes or features", "neither")),
        (false, false) => Err(FfiError::argument("classes", "classes or features", "both")),
        (false, true) => {
            // SAFETY: the caller promises it.
            Ok(Source::Classes(unsafe { classes(o.classes, o.images) }?))
        }
        // SAFETY: the caller promises it.
        (true, false) => unsafe {
            let shape = |images| [images, o.feature_count, info.config.width];
            let features = tensor(o.features, &shape(o.images), "features")?;
            let unconditional = match o.unconditional.is_null() {
                true => None,
                false => Some(tensor(o.unconditional, &shape(o.unconditional_images), "unconditional")?),
            };
            Ok(Source::Features { features, unconditional })
        },
    }
}

/// Classes of a caller's array.
///
/// # Safety
/// `from` is NULL or points to `n` classes.
pub(crate) unsafe fn classes(from: *const u32, n: usize) -> FfiResult<Vec<usize>> {
    // SAFETY: the caller promises it.
    try_map(unsafe { required(from, n, "classes") }?, "classes", |class| class as usize)
}

/// Copies a caller's floats to a tensor.
///
/// # Safety
/// `from` is NULL or points to the elements of the shape.
pub(crate) unsafe fn tensor(from: *const f32, shape: &[usize], name: &'static str) -> FfiResult<HostTensor> {
    let len = product(name, shape)?;
    // SAFETY: the caller promises it.
    let values = try_copy(unsafe { required(from, len, name) }?, name)?;
    Ok(HostTensor::f32(shape, values)?)
}

/// Number of values per reference of `n` images; fails if the model takes fewer than `count` references or they do not fit
/// in memory.
pub(crate) fn reference_values(info: &Info, count: usize, n: usize) -> FfiResult<usize> {
    const NAME: &str = "references";
    let max = info.config.groups() - 1;
    if count > max {
        return Err(FfiError::argument(NAME, format!("at most {max} references of {n} images"), count));
    }
    let values = product(NAME, &info.config.latent_shape(n))?;
    product(NAME, &[values, count])?;
    Ok(values)
}

/// Copies `count` contiguous references, each of latents [n, C, h, w].
///
/// # Safety
/// `from` is NULL or points to their elements.
pub(crate) unsafe fn references(
    info: &Info,
    from: *const f32,
    count: usize,
    n: usize,
) -> FfiResult<Vec<HostTensor>> {
    let (values, shape) = (reference_values(info, count, n)?, info.config.latent_shape(n));
    // SAFETY: the caller promises the elements of all references; the offset of each is within them.
    (0..count).map(|i| unsafe { tensor(offset(from, i * values), &shape, "references") }).collect()
}

/// # Safety
/// `from` is NULL or points to more than `by` elements.
unsafe fn offset(from: *const f32, by: usize) -> *const f32 {
    // SAFETY: the caller promises it.
    if from.is_null() { from } else { unsafe { from.add(by) } }
}

fn solver(o: &transcdiff_generate_options) -> FfiResult<Solver> {
    let (steps, interpolant) = (o.steps as usize, Interpolant::Linear);
    Ok(match o.solver {
        TRANSCDIFF_SOLVER_EULER_MARUYAMA => {
            EulerMaruyama::new(Timesteps::paper(steps)?, interpolant, o.drift_scale, o.noise_scale)?.into()
        }
        TRANSCDIFF_SOLVER_EULER => Euler { timesteps: Timesteps::uniform(steps)?, interpolant }.into(),
        TRANSCDIFF_SOLVER_HEUN => Heun { timesteps: Timesteps::uniform(steps)?, interpolant }.into(),
        other => return Err(FfiError::argument("solver", "one of TRANSCDIFF_SOLVER_…", other)),
    })
}

/// # Safety
/// As [`request`].
unsafe fn guidance(o: &transcdiff_generate_options) -> FfiResult<Vec<Guidance>> {
    // SAFETY: the caller promises it.
    let each = unsafe { array(o.ar_step_guidance, o.ar_step_guidance_count, "ar_step_guidance") }?;
    let scales = if each.is_empty() { &[o.guidance] } else { each };
    let within = |&scale: &f64| match Guidance::within(scale, o.guidance_low, o.guidance_high) {
        Err(Error::Argument { argument: "guidance", expected, got }) if !each.is_empty() => {
            Err(FfiError::argument("ar_step_guidance", expected, got))
        }
        guidance => Ok(guidance?),
    };
    scales.iter().map(within).collect()
}

/// Invokes the caller's callbacks after a solver step.
pub(crate) fn report(o: &transcdiff_generate_options, step: &Step<'_>) -> ControlFlow<()> {
    let progress = transcdiff_progress {
        struct_size: size_of::<transcdiff_progress>(),
        first_image: step.images.start,
        images: step.images.len(),
        ar_step: step.ar_step.index,
        ar_steps: step.ar_step.count,
        step: step.step,
        steps: step.steps,
        t: step.t,
        fraction: step.fraction,
    };
    // SAFETY: the caller provided the callback for this.
    let mut stop = o.progress.is_some_and(|call| unsafe { call(&progress, o.user_data) } != 0);
    if let (Some(call), false, true) = (o.preview, stop, step.step.is_multiple_of(o.preview_interval)) {
        // A failed preview does not end the generation, which reports the cause itself.
        let preview = step.preview();
        if let Some(latents) = preview.as_ref().ok().and_then(|latents| latents.as_f32()) {
            // SAFETY: the caller provided the callback for this; the values live until it returns.
            stop = unsafe { call(&progress, latents.as_ptr(), latents.len(), o.user_data) } != 0;
        }
    }
    if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
