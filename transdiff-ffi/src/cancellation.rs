//! Cancellation tokens: stopping a call from another thread or a signal handler.

use transdiff::CancellationToken;

use crate::status::guard_value;

/// Cancellation token: stops the calls that it is passed to. Created by `transcdiff_cancellation_new` and freed by
/// `transcdiff_cancellation_free`. All functions except the latter are thread-safe, and `transcdiff_cancellation_cancel` is
/// async-signal-safe as well.
#[allow(non_camel_case_types)]
pub struct transcdiff_cancellation(pub(crate) CancellationToken);

/// Creates a cancellation token in the state "not cancelled". The caller owns it and frees it with
/// `transcdiff_cancellation_free`. Returns NULL only after an internal error. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_cancellation_new() -> *mut transcdiff_cancellation {
    guard_value(std::ptr::null_mut(), || {
        Box::into_raw(Box::new(transcdiff_cancellation(CancellationToken::new())))
    })
}

/// Cancels the token: running calls with this token fail with `TRANSCDIFF_CANCELLED` within a fraction of a sampling step,
/// and later calls fail at once, until the token is reset. Does nothing for NULL. Thread-safe and async-signal-safe.
///
/// # Safety
/// `cancellation` is NULL or has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_cancel(cancellation: *const transcdiff_cancellation) {
    // SAFETY: the caller promises it.
    guard_value((), || unsafe { cancellation.as_ref() }.map_or((), |c| c.0.cancel()));
}

/// Resets the token to "not cancelled". Does nothing for NULL. Thread-safe.
///
/// # Safety
/// `cancellation` is NULL or has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_reset(cancellation: *const transcdiff_cancellation) {
    // SAFETY: the caller promises it.
    guard_value((), || unsafe { cancellation.as_ref() }.map_or((), |c| c.0.reset()));
}

/// Returns 1 if the token is cancelled, else 0; 0 for NULL. Thread-safe.
///
/// # Safety
/// `cancellation` is NULL or has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_is_cancelled(
    cancellation: *const transcdiff_cancellation,
) -> i32 {
    // SAFETY: the caller promises it.
    guard_value(0, || unsafe { cancellation.as_ref() }.map_or(0, |c| i32::from(c.0.is_cancelled())))
}

/// Frees the token; does nothing for NULL. Callable from any thread, once every call with this token has returned.
///
/// # Safety
/// `cancellation` is NULL or has not been freed, and is not in use by another call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_cancellation_free(cancellation: *mut transcdiff_cancellation) {
    if !cancellation.is_null() {
        // SAFETY: the caller promises it; handles come from `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(cancellation) }));
    }
}
