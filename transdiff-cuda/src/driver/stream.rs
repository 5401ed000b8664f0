//! Streams and events.

use std::ffi::c_void;
use std::ptr;

use cust::event::EventFlags;
use cust::stream::StreamFlags;
use cust::sys::{self, cudaError_enum as Code};
use transdiff_core::Result;

use super::error::{check, to_result};

/// A stream that does not synchronise with the device's default stream, which other code in the process may use; the
/// streams of `cust` do.
pub(crate) struct Stream(sys::CUstream);

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Creates a stream in the current context.
    pub(super) fn new() -> Result<Self, Code> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is valid.
        to_result(unsafe { sys::cuStreamCreate(&mut stream, StreamFlags::NON_BLOCKING.bits()) })?;
        Ok(Self(stream))
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.0
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }

    /// Enqueues `event`: it completes with all work enqueued before it.
    pub(crate) fn record(&self, op: &'static str, event: &Event) -> Result<()> {
        // SAFETY: the handles are valid.
        check(op, unsafe { sys::cuEventRecord(event.0, self.0) })
    }

    /// Waits until all enqueued work is done.
    pub(super) fn synchronize(&self, op: &'static str) -> Result<()> {
        // SAFETY: the handle is valid.
        check(op, unsafe { sys::cuStreamSynchronize(self.0) })
    }

    /// Enqueues a wait for `event`, as it was recorded last.
    pub(super) fn wait_for(&self, op: &'static str, event: &Event) -> Result<()> {
        // SAFETY: the handles are valid.
        check(op, unsafe { sys::cuStreamWaitEvent(self.0, event.0, 0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

/// An event: a position in a stream's work. The events of `cust` work with its own streams only.
pub(crate) struct Event(sys::CUevent);

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Threads that wait for the event sleep. For long waits.
    pub(crate) const BLOCKING_SYNC: EventFlags = EventFlags::DISABLE_TIMING.union(EventFlags::BLOCKING_SYNC);
    /// Threads that wait for the event spin. For short waits.
    pub(super) const SPINNING: EventFlags = EventFlags::DISABLE_TIMING;
    /// The event has a time.
    pub(super) const TIMED: EventFlags = EventFlags::DEFAULT;

    /// An event that is complete until it is recorded.
    pub(crate) fn new(op: &'static str, flags: EventFlags) -> Result<Self> {
        let mut event = ptr::null_mut();
        // SAFETY: the pointer is valid.
        check(op, unsafe { sys::cuEventCreate(&mut event, flags.bits()) })?;
        Ok(Self(event))
    }

    /// Waits until the event is complete.
    pub(crate) fn wait(&self, op: &'static str) -> Result<()> {
        // SAFETY: the handle is valid.
        check(op, unsafe { sys::cuEventSynchronize(self.0) })
    }

    /// Milliseconds from `start` to this event; both are complete and [timed](Self::TIMED).
    pub(super) fn milliseconds_since(&self, op: &'static str, start: &Self) -> Result<f32> {
        let mut elapsed = 0.0;
        // SAFETY: the handles and the pointer are valid.
        check(op, unsafe { sys::cuEventElapsedTime(&mut elapsed, start.0, self.0) })?;
        Ok(elapsed)
    }

    /// Returns whether the event is complete.
    pub(crate) fn is_complete(&self, op: &'static str) -> Result<bool> {
        // SAFETY: the handle is valid.
        match unsafe { sys::cuEventQuery(self.0) } {
            Code::CUDA_ERROR_NOT_READY => Ok(false),
            code => check(op, code).map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
