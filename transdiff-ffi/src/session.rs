//! Sessions: the per-caller state for using a model.

use std::sync::{Mutex, MutexGuard, TryLockError};

use transdiff::CancellationToken;
use transdiff::pipeline::{Info, PipelineSession};

use crate::cancellation::transcdiff_cancellation;
use crate::input::out_handle;
use crate::model::transcdiff_model;
use crate::status::{FfiError, FfiResult, guard, guard_value, transcdiff_error, transcdiff_status};

/// Session: the per-caller state and buffers for using a model. Created by `transcdiff_session_new` and freed by
/// `transcdiff_session_free`.
///
/// A session serves one call at a time: a concurrent call, from another thread or from a callback, fails with
/// `TRANSCDIFF_BUSY` and does not affect the running one. Calls may come from different threads. A session keeps its model
/// alive, and remains usable after an error.
#[allow(non_camel_case_types)]
pub struct transcdiff_session {
    session: Mutex<PipelineSession>,
    /// Copy for checks that do not lock the session.
    info: Info,
}

impl transcdiff_session {
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// Locks the session for one call, which `cancellation` can stop.
    ///
    /// # Safety
    /// `cancellation` is NULL or has not been freed.
    pub(crate) unsafe fn lock(
        &self,
        cancellation: *const transcdiff_cancellation,
    ) -> FfiResult<MutexGuard<'_, PipelineSession>> {
        // SAFETY: the caller promises it.
        let token = unsafe { cancellation.as_ref() }.map_or_else(CancellationToken::new, |c| c.0.clone());
        let mut session = match self.session.try_lock() {
            Ok(session) => session,
            // The panic was reported as an internal error; the session's state is consistent at any time.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(FfiError::Busy),
        };
        session.set_cancellation(&token);
        Ok(session)
    }
}

/// Session behind a caller's pointer.
///
/// # Safety
/// `session` is NULL or has not been freed, and outlives the reference.
pub(crate) unsafe fn session_of<'a>(session: *const transcdiff_session) -> FfiResult<&'a transcdiff_session> {
    // SAFETY: the caller promises it.
    unsafe { session.as_ref() }.ok_or(FfiError::Null("session"))
}

/// Creates a session of `model` and returns the handle in `*session`, which is NULL on failure. The caller owns the handle
/// and frees it with `transcdiff_session_free`. The session may outlive the model handle.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL. Thread-safe.
///
/// # Safety
/// `model` is NULL or has not been freed; `session` and `error` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_new(
    model: *const transcdiff_model,
    session: *mut *mut transcdiff_session,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let out_handle = unsafe { out_handle(session, "session") }?;
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.ok_or(FfiError::Null("model"))?;
        let info = model.pipeline.info().clone();
        let session = transcdiff_session { session: Mutex::new(model.pipeline.session()), info };
        // SAFETY: `out_handle` checked the pointer, which the caller promises is writable.
        unsafe { out_handle.write(Box::into_raw(Box::new(session))) };
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Frees a session; does nothing for NULL. Callable from any thread, once no other call uses the session.
///
/// # Safety
/// `session` is NULL or has not been freed, and is not in use by another call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_free(session: *mut transcdiff_session) {
    if !session.is_null() {
        // SAFETY: the caller promises it; handles come from `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(session) }));
    }
}
