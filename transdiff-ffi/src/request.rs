//! Conversion of options to a pipeline request, and of sampling steps to callbacks.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use transdiff::diffusion::{Quality, Sampling, SamplingSettings, Schedule, SolverKind};
use transdiff::models::Conditioning;
use transdiff::pipeline::{Info, OutputSelection, Progress, Request};
use transdiff::{Error, HostTensor};

use crate::input::{array, product, try_copy, try_map};
use crate::options::{
    TRANSCDIFF_QUALITY_DRAFT, TRANSCDIFF_QUALITY_FAST, TRANSCDIFF_QUALITY_NONE, TRANSCDIFF_QUALITY_PAPER,
    solver_code, transcdiff_generate_options, transcdiff_progress,
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
    let ar_steps = if o.features.is_null() { info.generator.ar_steps } else { 1 };
    check_count("ar_step_guidance_count", o.ar_step_guidance_count, &[0, ar_steps])?;
    check_count("ar_step_steps_count", o.ar_step_steps_count, &[0, ar_steps])?;
    let max = info.generator.features.unwrap_or_default().count;
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
    outputs: OutputSelection,
) -> FfiResult<Request> {
    let n = o.images;
    // SAFETY: the caller promises what the functions called here require.
    unsafe {
        let conditioning = conditioning(info, o)?;
        Ok(Request {
            conditioning,
            seeds: try_copy(required(o.seeds, n, "seeds")?, "seeds")?,
            sampling: sampling(info, o)?,
            references: references(info, o.references, o.reference_count, n)?,
            initial_noise: match o.initial_noise.is_null() {
                true => None,
                false => Some(tensor(o.initial_noise, &info.generator.codes_shape(n), "initial_noise")?),
            },
            batch: NonZeroUsize::new(o.batch),
            outputs,
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
unsafe fn conditioning(info: &Info, o: &transcdiff_generate_options) -> FfiResult<Conditioning<HostTensor>> {
    match (o.classes.is_null(), o.features.is_null()) {
        (true, true) => Err(FfiError::argument("classes", "classes or features", "neither")),
        (false, false) => Err(FfiError::argument("classes", "classes or features", "both")),
        (false, true) => {
            // SAFETY: the caller promises it.
            Ok(Conditioning::Classes(unsafe { classes(o.classes, o.images) }?))
        }
        // SAFETY: the caller promises it.
        (true, false) => unsafe {
            let width = info.generator.feature_shape()?.width;
            let shape = |images| [images, o.feature_count, width];
            let features = tensor(o.features, &shape(o.images), "features")?;
            let unconditional = match o.unconditional.is_null() {
                true => None,
                false => Some(tensor(o.unconditional, &shape(o.unconditional_images), "unconditional")?),
            };
            Ok(Conditioning::Features { features, unconditional })
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
    let max = info.generator.max_references();
    if count > max {
        return Err(FfiError::argument(NAME, format!("at most {max} references of {n} images"), count));
    }
    let values = product(NAME, &info.generator.codes_shape(n))?;
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
    let (values, shape) = (reference_values(info, count, n)?, info.generator.codes_shape(n));
    // SAFETY: the caller promises the elements of all references; the offset of each is within them.
    (0..count).map(|i| unsafe { tensor(offset(from, i * values), &shape, "references") }).collect()
}

/// # Safety
/// `from` is NULL or points to more than `by` elements.
unsafe fn offset(from: *const f32, by: usize) -> *const f32 {
    // SAFETY: the caller promises it.
    if from.is_null() { from } else { unsafe { from.add(by) } }
}

/// Number of AR steps of a generation: those of the model, or one from features.
pub(crate) fn ar_steps(info: &Info, o: &transcdiff_generate_options) -> usize {
    if o.features.is_null() { info.generator.ar_steps } else { 1 }
}

/// # Safety
/// As [`request`].
unsafe fn sampling(info: &Info, o: &transcdiff_generate_options) -> FfiResult<Sampling> {
    let quality = match o.quality {
        TRANSCDIFF_QUALITY_NONE => None,
        TRANSCDIFF_QUALITY_DRAFT => Some(Quality::Draft),
        TRANSCDIFF_QUALITY_FAST => Some(Quality::Fast),
        TRANSCDIFF_QUALITY_PAPER => Some(Quality::Paper),
        other => return Err(FfiError::argument("quality", "one of TRANSCDIFF_QUALITY_…", other)),
    };
    let solver = SolverKind::ALL.into_iter().find(|&kind| solver_code(kind) == o.solver);
    let solver =
        solver.ok_or_else(|| FfiError::argument("solver", "one of TRANSCDIFF_SOLVER_…", o.solver))?;
    if quality.is_some() && info.generator.distilled {
        let expected = "TRANSCDIFF_QUALITY_NONE, because the model is distilled";
        return Err(FfiError::argument("quality", expected, o.quality));
    }
    // SAFETY: the caller promises it.
    let each = unsafe { array(o.ar_step_guidance, o.ar_step_guidance_count, "ar_step_guidance") }?;
    let settings = SamplingSettings {
        solver,
        order: Some(o.order as usize).filter(|&order| order != 0),
        // SAFETY: the caller promises it.
        schedule: unsafe { schedule(o) }?,
        extrapolation: Some(o.extrapolation),
        guidance: if each.is_empty() { vec![o.guidance] } else { try_copy(each, "ar_step_guidance")? },
        guidance_interval: (o.guidance_low, o.guidance_high),
        drift_scale: Some(o.drift_scale),
        noise_scale: Some(o.noise_scale),
    };
    // The struct always has all settings; solvers without one ignore it.
    let settings = settings.with_solver(solver);
    let ar_steps = ar_steps(info, o);
    let settings = match quality {
        Some(quality) => quality.apply(settings, ar_steps),
        None => settings,
    };
    match settings.build(ar_steps) {
        Err(Error::Argument { argument: "guidance", expected, got }) if !each.is_empty() => {
            Err(FfiError::argument("ar_step_guidance", expected, got))
        }
        Err(Error::Argument { argument: "steps", expected, got }) if o.ar_step_steps_count > 0 => {
            Err(FfiError::argument("ar_step_steps", expected, got))
        }
        sampling => Ok(sampling?),
    }
}

/// # Safety
/// As [`request`].
unsafe fn schedule(o: &transcdiff_generate_options) -> FfiResult<Schedule> {
    // SAFETY: the caller promises it.
    let (steps, times, warp) = unsafe {
        (
            array(o.ar_step_steps, o.ar_step_steps_count, "ar_step_steps")?,
            array(o.times, o.time_count, "times")?,
            if o.warp.is_null() { None } else { Some(array(o.warp, 3, "warp")?) },
        )
    };
    if !times.is_empty() {
        if !steps.is_empty() || warp.is_some() {
            return Err(FfiError::argument("times", "NULL with ar_step_steps or warp", "times"));
        }
        return Ok(Schedule::Times(try_copy(times, "times")?));
    }
    let steps = match steps {
        [] => vec![o.steps as usize],
        each => try_map(each, "ar_step_steps", |steps| steps as usize)?,
    };
    Ok(match warp {
        Some(&[a, b, c]) => Schedule::Warped(steps, [a, b, c]),
        _ => Schedule::Steps(steps),
    })
}

/// Invokes the caller's callbacks after a sampling step.
pub(crate) fn report(o: &transcdiff_generate_options, progress: &Progress<'_>) -> ControlFlow<()> {
    let (step, preview) = (progress.step, || progress.preview());
    let progress = transcdiff_progress {
        struct_size: size_of::<transcdiff_progress>(),
        first_image: progress.images.start,
        images: progress.images.len(),
        ar_step: step.ar_step.index,
        ar_steps: step.ar_step.count,
        step: step.done,
        steps: step.total,
        t: step.t,
        fraction: progress.fraction,
    };
    // SAFETY: the caller provided the callback for this.
    let mut stop = o.progress.is_some_and(|call| unsafe { call(&progress, o.user_data) } != 0);
    if let (Some(call), false, true) = (o.preview, stop, step.done.is_multiple_of(o.preview_interval)) {
        // A failed preview does not end the generation, which reports the cause itself.
        let preview = preview();
        if let Some(latents) = preview.as_ref().ok().and_then(|latents| latents.as_f32()) {
            // SAFETY: the caller provided the callback for this; the values live until it returns.
            stop = unsafe { call(&progress, latents.as_ptr(), latents.len(), o.user_data) } != 0;
        }
    }
    if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
