//! Stopping a call from outside.

use transdiff::CancellationToken;

use crate::status::guard_value;

/// A flag that stops the calls that watch it. Every function but `transcdiff_cancellation_free` may be called from any
/// thread at any time, `transcdiff_cancellation_cancel` from a signal handler too.
#[allow(non_camel_case_types)]
pub struct transcdiff_cancellation(pub(crate) CancellationToken);

/// A flag that is not set. NULL only after a defect of this library. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_cancellation_new() -> *mut transcdiff_cancellation {
    guard_value(std::ptr::null_mut(), || {
        Box::into_raw(Box::new(transcdiff_cancellation(CancellationToken::new())))
    })
}

/// Sets the flag: calls that watch it return `TRANSCDIFF_CANCELLED` within a part of a denoising step. It stays set, and
/// stops later calls at once, until it is reset. NULL is ignored. Any thread; async-signal-safe.
///
/// # Safety
/// `cancellation` is NULL or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_cancel(cancellation: *const transcdiff_cancellation) {
    // SAFETY: the caller promises it.
    guard_value((), || unsafe { cancellation.as_ref() }.map_or((), |c| c.0.cancel()));
}

/// Clears the flag. NULL is ignored. Any thread.
///
/// # Safety
/// `cancellation` is NULL or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_reset(cancellation: *const transcdiff_cancellation) {
    // SAFETY: the caller promises it.
    guard_value((), || unsafe { cancellation.as_ref() }.map_or((), |c| c.0.reset()));
}

/// 1 if the flag is set, else 0; 0 for NULL. Any thread.
///
/// # Safety
/// `cancellation` is NULL or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_is_cancelled(
    cancellation: *const transcdiff_cancellation,
) -> i32 {
    // SAFETY: the caller promises it.
    guard_value(0, || unsafe { cancellation.as_ref() }.map_or(0, |c| i32::from(c.0.is_cancelled())))
}

/// Frees the flag, not before every call that was given it has returned. NULL is nothing to free. Any thread.
///
/// # Safety
/// `cancellation` is NULL or was not freed, and no other call is using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_free(cancellation: *mut transcdiff_cancellation) {
    if !cancellation.is_null() {
        // SAFETY: the caller promises it; handles are made by `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(cancellation) }));
    }
}
