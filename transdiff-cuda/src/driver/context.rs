//! Guard that makes a device's context current on a thread.

use std::ptr;

use cust::context::Context;
use cust::sys::{self, cudaError_enum as Code};

use super::error::to_result;

/// Keeps a device's context current on this thread. Dropping the guard restores the previous context, which may be the
/// calling program's own; it has to be dropped on the same thread.
#[must_use]
pub(crate) struct ContextGuard {
    /// True if another context, or none, was current before.
    pushed: bool,
}

impl ContextGuard {
    pub(super) fn new(context: &Context) -> Result<Self, Code> {
        let pushed = current_context()? != context.as_raw();
        if pushed {
            // SAFETY: the context is valid.
            to_result(unsafe { sys::cuCtxPushCurrent_v2(context.as_raw()) })?;
        }
        Ok(Self { pushed })
    }
}

impl Drop for ContextGuard {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = ptr::null_mut();
            // SAFETY: the pointer is valid. There is no way to handle a failure here.
            unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        }
    }
}

/// The thread's current context, or null.
pub(super) fn current_context() -> Result<sys::CUcontext, Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the pointer is valid.
    to_result(unsafe { sys::cuCtxGetCurrent(&mut context) })?;
    Ok(context)
}
