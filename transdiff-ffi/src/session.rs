//! Sessions: one caller's use of a model.

use std::sync::{Mutex, MutexGuard, TryLockError};

use transdiff::CancellationToken;
use transdiff::pipeline::{Info, PipelineSession};

use crate::cancellation::transcdiff_cancellation;
use crate::input::slot;
use crate::model::transcdiff_model;
use crate::status::{Failure, Outcome, guard, guard_value, transcdiff_error, transcdiff_status};

/// One caller's use of a model. A session serves one call at a time: a second one, from another thread or from a callback,
/// returns `TRANSCDIFF_BUSY` and disturbs nothing. It can move between threads.
#[allow(non_camel_case_types)]
pub struct transcdiff_session {
    session: Mutex<PipelineSession>,
    /// The session's own, for what can be said while it is in use.
    info: Info,
}

impl transcdiff_session {
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// The session for one call, which `cancellation` can stop.
    ///
    /// # Safety
    /// `cancellation` is NULL or was not freed.
    pub(crate) unsafe fn enter(
        &self,
        cancellation: *const transcdiff_cancellation,
    ) -> Outcome<MutexGuard<'_, PipelineSession>> {
        // SAFETY: the caller promises it.
        let flag = unsafe { cancellation.as_ref() }.map_or_else(CancellationToken::new, |c| c.0.clone());
        let mut session = match self.session.try_lock() {
            Ok(session) => session,
            // A panic was reported as an internal error then; what a session keeps is whole at any time.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Failure::Busy),
        };
        session.set_cancellation(&flag);
        Ok(session)
    }
}

/// The session behind a caller's pointer.
///
/// # Safety
/// `session` is NULL or was not freed, and lives as long as the reference.
pub(crate) unsafe fn session_of<'a>(session: *const transcdiff_session) -> Outcome<&'a transcdiff_session> {
    // SAFETY: the caller promises it.
    unsafe { session.as_ref() }.ok_or(Failure::Null("session"))
}

/// Makes a session on `model` to `*session`, which is NULL if that fails. Any thread.
///
/// # Safety
/// `model` is NULL or was not freed; `session` and `error` are NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_new(
    model: *const transcdiff_model,
    session: *mut *mut transcdiff_session,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises it.
        let slot = unsafe { slot(session, "session") }?;
        // SAFETY: the caller promises it.
        let model = unsafe { model.as_ref() }.ok_or(Failure::Null("model"))?;
        let info = model.pipeline.info().clone();
        let session = transcdiff_session { session: Mutex::new(model.pipeline.session()), info };
        // SAFETY: the caller promises that it can be written.
        unsafe { slot.write(Box::into_raw(Box::new(session))) };
        Ok(())
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Frees a session. NULL is nothing to free. Any thread.
///
/// # Safety
/// `session` is NULL or was not freed, and no other call is using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_free(session: *mut transcdiff_session) {
    if !session.is_null() {
        // SAFETY: the caller promises it; handles are made by `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(session) }));
    }
}
