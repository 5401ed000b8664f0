//! From a caller's options to a request, and from the sampler's steps to the caller's callbacks.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use transdiff::diffusion::{Euler, EulerMaruyama, Guidance, Heun, Interpolant, Solver, Timesteps};
use transdiff::models::transdiff::Sampling;
use transdiff::pipeline::{Info, Request, Source, Step, Wanted};
use transdiff::{Error, HostTensor};

use crate::generate::{
    TRANSCDIFF_SOLVER_EULER, TRANSCDIFF_SOLVER_EULER_MARUYAMA, TRANSCDIFF_SOLVER_HEUN,
    transcdiff_generate_options, transcdiff_progress,
};
use crate::input::{array, converted, copied, product};
use crate::status::{Failure, Outcome};

/// What can be said of the options before their arrays are looked at: counts are in range, and features and classes do
/// not come together.
pub(crate) fn check(info: &Info, o: &transcdiff_generate_options) -> Outcome {
    if o.images == 0 {
        return Err(Failure::argument("images", "at least one", 0));
    }
    if o.preview.is_some() && o.preview_interval == 0 {
        return Err(Failure::argument("preview_interval", "at least 1", 0));
    }
    let ar_steps = if o.features.is_null() { info.config.groups() } else { 1 };
    check_count("step_guidance_count", o.step_guidance_count, &[0, ar_steps])?;
    let most = info.config.feature_tokens;
    match o.features.is_null() {
        true if !o.unconditional.is_null() => {
            Err(Failure::argument("unconditional", "none without features", "some"))
        }
        true => {
            check_count("feature_count", o.feature_count, &[0])?;
            check_count("unconditional_images", o.unconditional_images, &[0])
        }
        false if !(1..=most).contains(&o.feature_count) => {
            Err(Failure::argument("feature_count", format!("1 to {most}"), o.feature_count))
        }
        false if o.unconditional.is_null() => {
            check_count("unconditional_images", o.unconditional_images, &[0])
        }
        false => check_count("unconditional_images", o.unconditional_images, &[1, o.images]),
    }
}

fn check_count(name: &'static str, count: usize, allowed: &[usize]) -> Outcome {
    if allowed.contains(&count) {
        return Ok(());
    }
    let allowed: Vec<_> = allowed.iter().map(usize::to_string).collect();
    Err(Failure::argument(name, allowed.join(" or "), count))
}

/// The request that the options describe.
///
/// # Safety
/// The pointers within `o` are as the struct's documentation says.
pub(crate) unsafe fn request(
    info: &Info,
    o: &transcdiff_generate_options,
    wanted: Wanted,
) -> Outcome<Request> {
    let n = o.images;
    // SAFETY: the caller promises what the functions called here ask for.
    unsafe {
        let source = source(info, o)?;
        Ok(Request {
            source,
            seeds: copied(required(o.seeds, n, "seeds")?, "seeds")?,
            sampling: Sampling { solver: solver(o)?, guidance: guidance(o)? },
            references: references(info, o.references, o.reference_count, n)?,
            starting: match o.starting.is_null() {
                true => None,
                false => Some(tensor(o.starting, &info.config.latent_shape(n), "starting")?),
            },
            batch: NonZeroUsize::new(o.batch),
            wanted,
        })
    }
}

/// # Safety
/// As [`array`].
unsafe fn required<'a, T>(from: *const T, len: usize, name: &'static str) -> Outcome<&'a [T]> {
    if from.is_null() {
        return Err(Failure::Null(name));
    }
    // SAFETY: the caller promises it.
    unsafe { array(from, len, name) }
}

/// # Safety
/// As [`request`].
unsafe fn source(info: &Info, o: &transcdiff_generate_options) -> Outcome<Source> {
    match (o.classes.is_null(), o.features.is_null()) {
        (true, true) => Err(Failure::argument("classes", "classes or features", "neither")),
        (false, false) => Err(Failure::argument("classes", "classes or features", "both")),
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

/// A caller's classes.
///
/// # Safety
/// `from` is NULL or points to `n` classes.
pub(crate) unsafe fn classes(from: *const u32, n: usize) -> Outcome<Vec<usize>> {
    // SAFETY: the caller promises it.
    converted(unsafe { required(from, n, "classes") }?, "classes", |class| class as usize)
}

/// A copy of a caller's floats as a tensor.
///
/// # Safety
/// `from` is NULL or points to the elements of the shape.
pub(crate) unsafe fn tensor(from: *const f32, shape: &[usize], name: &'static str) -> Outcome<HostTensor> {
    let len = product(name, shape)?;
    // SAFETY: the caller promises it.
    let values = copied(unsafe { required(from, len, name) }?, name)?;
    Ok(HostTensor::f32(shape, values)?)
}

/// Values of one of `count` references for `n` images, if the model takes so many and memory can hold them.
pub(crate) fn reference_values(info: &Info, count: usize, n: usize) -> Outcome<usize> {
    const NAME: &str = "references";
    let most = info.config.groups() - 1;
    if count > most {
        let expected = format!("at most {most} times the latents of {n} images");
        return Err(Failure::argument(NAME, expected, count));
    }
    let each = product(NAME, &info.config.latent_shape(n))?;
    product(NAME, &[each, count])?;
    Ok(each)
}

/// `count` references, latents [n, C, h, w] that lie one after another.
///
/// # Safety
/// `from` is NULL or points to their elements.
pub(crate) unsafe fn references(
    info: &Info,
    from: *const f32,
    count: usize,
    n: usize,
) -> Outcome<Vec<HostTensor>> {
    let (each, shape) = (reference_values(info, count, n)?, info.config.latent_shape(n));
    // SAFETY: the caller promises the elements of all; the last begins within them.
    (0..count).map(|i| unsafe { tensor(offset(from, i * each), &shape, "references") }).collect()
}

/// # Safety
/// `from` is NULL or points to more than `by` elements.
unsafe fn offset(from: *const f32, by: usize) -> *const f32 {
    // SAFETY: the caller promises it.
    if from.is_null() { from } else { unsafe { from.add(by) } }
}

fn solver(o: &transcdiff_generate_options) -> Outcome<Solver> {
    let (steps, interpolant) = (o.steps as usize, Interpolant::Linear);
    Ok(match o.solver {
        TRANSCDIFF_SOLVER_EULER_MARUYAMA => {
            EulerMaruyama::new(Timesteps::paper(steps)?, interpolant, o.drift_scale, o.noise_scale)?.into()
        }
        TRANSCDIFF_SOLVER_EULER => Euler { timesteps: Timesteps::uniform(steps)?, interpolant }.into(),
        TRANSCDIFF_SOLVER_HEUN => Heun { timesteps: Timesteps::uniform(steps)?, interpolant }.into(),
        other => return Err(Failure::argument("solver", "one of TRANSCDIFF_SOLVER_…", other)),
    })
}

/// # Safety
/// As [`request`].
unsafe fn guidance(o: &transcdiff_generate_options) -> Outcome<Vec<Guidance>> {
    // SAFETY: the caller promises it.
    let each = unsafe { array(o.step_guidance, o.step_guidance_count, "step_guidance") }?;
    let scales = if each.is_empty() { &[o.guidance] } else { each };
    let within = |&scale: &f64| match Guidance::within(scale, o.guidance_low, o.guidance_high) {
        Err(Error::Argument { argument: "guidance", expected, got }) if !each.is_empty() => {
            Err(Failure::argument("step_guidance", expected, got))
        }
        guidance => Ok(guidance?),
    };
    scales.iter().map(within).collect()
}

/// Calls the caller's callbacks for a step.
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
    // SAFETY: the caller gave the callback for this.
    let mut stop = o.progress.is_some_and(|call| unsafe { call(&progress, o.user_data) } != 0);
    if let (Some(call), false, true) = (o.preview, stop, step.step.is_multiple_of(o.preview_interval)) {
        // A preview that cannot be made is not worth a generation: what is wrong will be found there.
        let preview = step.preview();
        if let Some(latents) = preview.as_ref().ok().and_then(|latents| latents.as_f32()) {
            // SAFETY: the caller gave the callback for this; the values live until it returns.
            stop = unsafe { call(&progress, latents.as_ptr(), latents.len(), o.user_data) } != 0;
        }
    }
    if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
