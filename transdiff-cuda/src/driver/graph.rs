//! CUDA graphs: work that is captured once and launched many times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fmt, ptr};

use cust::sys;
use transdiff_core::Result;

use super::error::check;
use super::stream::{Event, Stream};

/// A capture in progress. Dropped before its end, it discards what was captured.
pub(crate) struct Capture<'a> {
    stream: &'a Stream,
    /// Events of the future graph; `None` once the capture has ended.
    launches: Option<[Event; 2]>,
}

impl<'a> Capture<'a> {
    /// Starts to capture what is enqueued on the stream, instead of executing it.
    pub(super) fn begin(op: &'static str, stream: &'a Stream) -> Result<Self> {
        let launches = [Event::new(op, Event::BLOCKING_SYNC)?, Event::new(op, Event::BLOCKING_SYNC)?];
        // Relaxed: the allocator may still have to allocate device memory.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the handle is valid.
        check(op, unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) })?;
        Ok(Self { stream, launches: Some(launches) })
    }

    /// Ends the capture and instantiates the graph, which must be dropped before the driver.
    pub(crate) fn end(mut self, op: &'static str) -> Result<ExecGraph> {
        let launches = self.launches.take().expect("a capture ends once");
        let captured = CapturedGraph::end_capture(op, self.stream)?;
        let mut exec = ptr::null_mut();
        // SAFETY: the handles are valid.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, captured.0, 0) };
        check(op, code).map(|()| ExecGraph { exec, launches, latest: AtomicUsize::new(0) })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.launches.is_some() {
            // The captured work failed, and its error is reported to the caller.
            let _ = CapturedGraph::end_capture("capture", self.stream);
        }
    }
}

/// A captured graph. An executable graph does not need the graph that it was instantiated from.
struct CapturedGraph(sys::CUgraph);

impl CapturedGraph {
    /// Ends the capture of `stream`, whether or not this succeeds.
    fn end_capture(op: &'static str, stream: &Stream) -> Result<Self> {
        let mut graph = ptr::null_mut();
        // SAFETY: the handles are valid.
        let code = unsafe { sys::cuStreamEndCapture(stream.raw(), &mut graph) };
        check(op, code).map(|()| Self(graph))
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// An executable graph.
pub(crate) struct ExecGraph {
    exec: sys::CUgraphExec,
    /// Recorded after launches, in turn: complete when the launch is.
    launches: [Event; 2],
    /// Index of the last launch's event.
    latest: AtomicUsize,
}

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for ExecGraph {}
// SAFETY: as above; launches are enqueued under the device's lock.
unsafe impl Sync for ExecGraph {}

impl ExecGraph {
    /// Waits for the last launch but one. Without it a caller that enqueues faster than the device executes would see
    /// its cancellation take effect late.
    pub(crate) fn wait(&self, op: &'static str) -> Result<()> {
        self.launches[1 - self.latest.load(Ordering::Relaxed)].wait(op)
    }

    /// Enqueues the captured work.
    pub(super) fn launch(&self, op: &'static str, stream: &Stream) -> Result<()> {
        // SAFETY: the handles are valid.
        check(op, unsafe { sys::cuGraphLaunch(self.exec, stream.raw()) })?;
        let next = 1 - self.latest.load(Ordering::Relaxed);
        if let Err(error) = stream.record(op, &self.launches[next]) {
            // Without the event the end of the launch is unknown later, so wait for it now.
            let _ = stream.synchronize(op);
            return Err(error);
        }
        self.latest.store(next, Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for ExecGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecGraph")
    }
}

impl Drop for ExecGraph {
    fn drop(&mut self) {
        // A launch in progress needs the graph: not every driver keeps it until then. A failed device has no launch in progress.
        let _ = self.launches[self.latest.load(Ordering::Relaxed)].wait("drop");
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}
