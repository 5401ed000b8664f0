//! Semantic features: computed, cut and mixed.

use transdiff::HostTensor;
use transdiff::pipeline::PipelineSession;

use crate::buffers::write_floats;
use crate::cancellation::transcdiff_cancellation;
use crate::input::{array, array_mut, check_floats, product};
use crate::request;
use crate::session::{session_of, transcdiff_session};
use crate::status::{Failure, Outcome, guard, transcdiff_error, transcdiff_status};

/// Computes the semantic features [n, k, feature_width] of `n` classes. k is the model's `feature_count` in one step; with MRAR
/// it is (1 + reference_count)·feature_count/groups, for `references` [reference_count, n, C, h, w], the latents of the images
/// before each group but the first. `features_size` is in bytes. `cancellation` may be NULL. One call a session at a time.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `features` overlaps nothing.
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
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let session = session_of(session)?;
            if classes.is_null() {
                return Err(Failure::Null("classes"));
            }
            let asked = Asked { n, references, reference_count, cancellation, features, features_size };
            asked.run(session, |session, references| {
                Ok(session.features(&request::classes(classes, n)?, references)?)
            })
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Computes the semantic features for no class of `n` images, as `transcdiff_session_features`: what guidance leads away from.
/// With MRAR they depend on the references.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `features` overlaps nothing.
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
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let session = session_of(session)?;
            let asked = Asked { n, references, reference_count, cancellation, features, features_size };
            asked.run(session, |session, references| Ok(session.unconditional_features(n, references)?))
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// The arguments of both functions that compute features.
struct Asked {
    n: usize,
    references: *const f32,
    reference_count: usize,
    cancellation: *const transcdiff_cancellation,
    features: *mut f32,
    features_size: usize,
}

impl Asked {
    /// # Safety
    /// The pointers are as [`transcdiff_session_features`] says.
    unsafe fn run(
        self,
        session: &transcdiff_session,
        compute: impl FnOnce(&mut PipelineSession, &[HostTensor]) -> Outcome<HostTensor>,
    ) -> Outcome {
        if self.features.is_null() {
            return Err(Failure::Null("features"));
        }
        let config = &session.info().config;
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let count = self.reference_count;
            request::reference_values(session.info(), count, self.n)?;
            let shape = [self.n, 1 + count, config.group_tokens(), config.width, size_of::<f32>()];
            check_floats("features", self.features, product("features", &shape)?, self.features_size)?;
            let mut entered = session.enter(self.cancellation)?;
            let references = request::references(session.info(), self.references, count, self.n)?;
            let made = compute(&mut entered, &references)?;
            write_floats(&[&made], self.features, "features")
        }
    }
}

/// Cuts features [n, count, width]: the first `k` of each image go to `cut` [n, k, width]. Any thread.
///
/// # Safety
/// The pointers are NULL or valid for their shapes; `cut` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_features_cut(
    features: *const f32,
    n: usize,
    count: usize,
    width: usize,
    k: usize,
    cut: *mut f32,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        check_part(k, count)?;
        let (whole, part) = (product("features", &[count, width])?, k * width);
        // SAFETY: the caller promises what the functions called here ask for.
        let (from, to) = unsafe {
            let from = array(features, product("features", &[n, whole])?, "features")?;
            (from, array_mut(cut, product("features", &[n, part])?, "cut")?)
        };
        for (to, from) in to.chunks_exact_mut(part.max(1)).zip(from.chunks_exact(whole.max(1))) {
            to.copy_from_slice(&from[..part]);
        }
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Mixes features `first` and `second`, both [n, count, width]: of each image the first `k` of `first`, then those of `second`
/// from `k` on, go to `mixed` [n, count, width]. Any thread.
///
/// # Safety
/// The pointers are NULL or valid for their shapes; `mixed` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_features_mix(
    first: *const f32,
    second: *const f32,
    n: usize,
    count: usize,
    width: usize,
    k: usize,
    mixed: *mut f32,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        check_part(k, count)?;
        let whole = product("features", &[count, width])?;
        let all = product("features", &[n, whole])?;
        // SAFETY: the caller promises what the functions called here ask for.
        let (first, second, mixed) = unsafe {
            (array(first, all, "first")?, array(second, all, "second")?, array_mut(mixed, all, "mixed")?)
        };
        let images = first.chunks_exact(whole.max(1)).zip(second.chunks_exact(whole.max(1)));
        for (mixed, (first, second)) in mixed.chunks_exact_mut(whole.max(1)).zip(images) {
            mixed[..k * width].copy_from_slice(&first[..k * width]);
            mixed[k * width..].copy_from_slice(&second[k * width..]);
        }
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

fn check_part(k: usize, count: usize) -> Outcome {
    if (1..=count).contains(&k) {
        Ok(())
    } else {
        Err(Failure::argument("k", format!("a number in 1..={count}"), k))
    }
}
