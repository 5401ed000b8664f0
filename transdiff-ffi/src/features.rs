//! Semantic features: computation, truncation and splicing.

use std::ops::RangeInclusive;

use transdiff::HostTensor;
use transdiff::pipeline::PipelineSession;

use crate::buffers::write_floats;
use crate::cancellation::transcdiff_cancellation;
use crate::input::{array, array_mut, check_floats, product};
use crate::request;
use crate::session::{session_of, transcdiff_session};
use crate::status::{FfiError, FfiResult, guard, transcdiff_error, transcdiff_status};

/// Computes the semantic features of `n` classes.
///
/// `features` receives [n, k, feature_width]; `features_size` is in bytes. In 1-step mode k is the model's `feature_count`
/// and there are no references. With MRAR `references` are latents [reference_count, n, C, h, w], the results of the first
/// `reference_count` AR steps, and k = (1 + reference_count)·feature_count/ar_steps. `cancellation` is a cancellation token or
/// NULL. All arrays belong to the caller.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments, `_CANCELLED`, `_NON_FINITE`,
/// `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `features` does not overlap other arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_features(
    session: *mut transcdiff_session,
    classes: *const u32,
    n: usize,
    references: *const f32,
    reference_count: usize,
    cancellation: *const transcdiff_cancellation,
    features: *mut f32,
    features_size: usize,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let session = session_of(session)?;
            if classes.is_null() {
                return Err(FfiError::Null("classes"));
            }
            let arguments =
                FeatureArguments { n, references, reference_count, cancellation, features, features_size };
            arguments.run(session, |session, references| {
                Ok(session.features(&request::classes(classes, n)?, references)?)
            })
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Computes unconditional features of `n` images, for classifier-free guidance. Shapes, errors, ownership and thread rules
/// are those of `transcdiff_session_features`. With MRAR the features depend on the references.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `features` does not overlap other arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_unconditional_features(
    session: *mut transcdiff_session,
    n: usize,
    references: *const f32,
    reference_count: usize,
    cancellation: *const transcdiff_cancellation,
    features: *mut f32,
    features_size: usize,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let session = session_of(session)?;
            let arguments =
                FeatureArguments { n, references, reference_count, cancellation, features, features_size };
            arguments.run(session, |session, references| Ok(session.unconditional_features(n, references)?))
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Arguments shared by the functions that compute features.
struct FeatureArguments {
    n: usize,
    references: *const f32,
    reference_count: usize,
    cancellation: *const transcdiff_cancellation,
    features: *mut f32,
    features_size: usize,
}

impl FeatureArguments {
    /// Checks the arguments, computes features and writes them.
    ///
    /// # Safety
    /// The pointers are valid as [`transcdiff_session_features`] documents.
    unsafe fn run(
        self,
        session: &transcdiff_session,
        compute: impl FnOnce(&mut PipelineSession, &[HostTensor]) -> FfiResult<HostTensor>,
    ) -> FfiResult {
        if self.features.is_null() {
            return Err(FfiError::Null("features"));
        }
        let features = session.info().generator.feature_shape()?;
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let count = self.reference_count;
            request::reference_values(session.info(), count, self.n)?;
            let shape = [self.n, 1 + count, features.per_ar_step, features.width, size_of::<f32>()];
            check_floats("features", self.features, product("features", &shape)?, self.features_size)?;
            let mut pipeline = session.lock(self.cancellation)?;
            let references = request::references(session.info(), self.references, count, self.n)?;
            let result = compute(&mut pipeline, &references)?;
            write_floats(&[&result], self.features, "features")
        }
    }
}

/// Truncates features [n, count, width] to the first `k` of each image and writes them to `truncated` [n, k, width]. Both
/// arrays belong to the caller.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and for `k` outside 1 to `count`. Thread-safe.
///
/// # Safety
/// The pointers are NULL or valid for their shapes; `truncated` does not overlap `features`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_features_truncate(
    features: *const f32,
    n: usize,
    count: usize,
    width: usize,
    k: usize,
    truncated: *mut f32,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        check_prefix(k, 1..=count)?;
        let (whole, part) = (product("features", &[count, width])?, k * width);
        // SAFETY: the caller promises what the functions called here require.
        let (from, to) = unsafe {
            let from = array(features, product("features", &[n, whole])?, "features")?;
            (from, array_mut(truncated, product("features", &[n, part])?, "truncated")?)
        };
        for (to, from) in to.chunks_exact_mut(part.max(1)).zip(from.chunks_exact(whole.max(1))) {
            to.copy_from_slice(&from[..part]);
        }
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Splices features `first` and `second`, both [n, count, width]: `spliced` [n, count, width] receives, for each image, the
/// first `k` features of `first` followed by the features of `second` from index `k`. All arrays belong to the caller.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and for `k` above `count`. Thread-safe.
///
/// # Safety
/// The pointers are NULL or valid for their shapes; `spliced` does not overlap other arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_features_splice(
    first: *const f32,
    second: *const f32,
    n: usize,
    count: usize,
    width: usize,
    k: usize,
    spliced: *mut f32,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        check_prefix(k, 0..=count)?;
        let whole = product("features", &[count, width])?;
        let all = product("features", &[n, whole])?;
        // SAFETY: the caller promises what the functions called here require.
        let (first, second, spliced) = unsafe {
            (array(first, all, "first")?, array(second, all, "second")?, array_mut(spliced, all, "spliced")?)
        };
        let images = first.chunks_exact(whole.max(1)).zip(second.chunks_exact(whole.max(1)));
        for (spliced, (first, second)) in spliced.chunks_exact_mut(whole.max(1)).zip(images) {
            spliced[..k * width].copy_from_slice(&first[..k * width]);
            spliced[k * width..].copy_from_slice(&second[k * width..]);
        }
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

fn check_prefix(k: usize, range: RangeInclusive<usize>) -> FfiResult {
    if range.contains(&k) {
        return Ok(());
    }
    Err(FfiError::argument("k", format!("{} to {}", range.start(), range.end()), k))
}
