//! The context of a device, and whether a thread is in it.

use std::ptr;

use cust::context::Context;
use cust::sys::{self, cudaError_enum as Code};

use super::error::success;

/// A thread in a device's context. It goes back to the one that it was in, its program's own perhaps, when this is
/// dropped, which it has to do itself.
#[must_use]
pub(crate) struct Entered {
    /// Whether it was in another one.
    changed: bool,
}

impl Entered {
    pub(super) fn new(context: &Context) -> Result<Self, Code> {
        let changed = current_context()? != context.as_raw();
        if changed {
            // SAFETY: the context is there.
            success(unsafe { sys::cuCtxPushCurrent_v2(context.as_raw()) })?;
        }
        Ok(Self { changed })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.changed {
            let mut left = ptr::null_mut();
            // SAFETY: the pointer is valid. Should it fail, nobody can do anything about it.
            unsafe { sys::cuCtxPopCurrent_v2(&mut left) };
        }
    }
}

/// The context that the thread is in, or null.
pub(super) fn current_context() -> Result<sys::CUcontext, Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the pointer is valid.
    success(unsafe { sys::cuCtxGetCurrent(&mut context) })?;
    Ok(context)
}
