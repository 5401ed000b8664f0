//! A stream of work, and points in it.

use std::ptr;

use cust::event::EventFlags;
use cust::stream::StreamFlags;
use cust::sys::{self, cudaError_enum as Code};
use transdiff_core::Result;

use super::error::{checked, success};

/// A stream of work. It does not wait for the device's default stream, on which others in the process may work; those of
/// `cust` do.
pub(super) struct Stream(pub(super) sys::CUstream);

// SAFETY: a handle, which the driver takes from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// In the thread's context.
    pub(super) fn new() -> Result<Self, Code> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is valid.
        success(unsafe { sys::cuStreamCreate(&mut stream, StreamFlags::NON_BLOCKING.bits()) })?;
        Ok(Self(stream))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

/// A point in the device's work: an event. Those of `cust` come from its streams alone.
pub(crate) struct Moment(pub(super) sys::CUevent);

// SAFETY: a handle, which the driver takes from any thread.
unsafe impl Send for Moment {}
// SAFETY: as above.
unsafe impl Sync for Moment {}

impl Moment {
    /// Whoever waits for long sleeps.
    pub(super) const SLEEPING: EventFlags = EventFlags::DISABLE_TIMING.union(EventFlags::BLOCKING_SYNC);

    /// One that has come.
    pub(super) fn new(op: &'static str, flags: EventFlags) -> Result<Self> {
        let mut event = ptr::null_mut();
        // SAFETY: the pointer is valid.
        checked(op, unsafe { sys::cuEventCreate(&mut event, flags.bits()) })?;
        Ok(Self(event))
    }

    /// Returns when it has come.
    pub(crate) fn wait(&self, op: &'static str) -> Result<()> {
        // SAFETY: the handle is valid.
        checked(op, unsafe { sys::cuEventSynchronize(self.0) })
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
