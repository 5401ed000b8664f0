//! Work that is noted once and done many times: CUDA graphs.

use std::{fmt, ptr};

use cust::sys;
use transdiff_core::Result;

use super::Driver;
use super::error::checked;
use super::stream::Moment;

impl Driver {
    /// Begins to note what is asked of the stream, instead of doing it.
    pub(crate) fn begin_capture(&self, op: &'static str) -> Result<Capture<'_>> {
        let done = Moment::new(op, Moment::SLEEPING)?;
        // Relaxed: the pool may still have to ask for memory.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the handle is valid.
        checked(op, unsafe { sys::cuStreamBeginCapture_v2(self.stream.0, mode) })?;
        Ok(Capture { driver: self, done: Some(done) })
    }

    /// What was noted; nothing is any more, whether or not that succeeds.
    fn end_capture(&self, op: &'static str) -> Result<Noted> {
        let mut graph = ptr::null_mut();
        // SAFETY: the handles are valid.
        let code = unsafe { sys::cuStreamEndCapture(self.stream.0, &mut graph) };
        checked(op, code).map(|()| Noted(graph))
    }

    /// Does what was noted.
    pub(crate) fn replay(&self, op: &'static str, graph: &Graph) -> Result<()> {
        self.note(op, &graph.done)?;
        // SAFETY: the handles are valid.
        checked(op, unsafe { sys::cuGraphLaunch(graph.exec, self.stream.0) })
    }
}

/// A stretch of work that is noted. Dropped before its end, it leaves nothing.
pub(crate) struct Capture<'a> {
    driver: &'a Driver,
    /// The event of the graph to be; none once the capture is over.
    done: Option<Moment>,
}

impl Capture<'_> {
    /// What was noted. The graph is to be dropped while the driver is there.
    pub(crate) fn end(mut self, op: &'static str) -> Result<Graph> {
        let done = self.done.take().expect("a capture ends once");
        let noted = self.driver.end_capture(op)?;
        let mut exec = ptr::null_mut();
        // SAFETY: the handles are valid.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, noted.0, 0) };
        checked(op, code).map(|()| Graph { exec, done })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.done.is_some() {
            // Its work failed; whoever asked for it is told that.
            let _ = self.driver.end_capture("record");
        }
    }
}

/// What was noted, as the driver keeps it. An executable graph does not need the one that it was made of.
struct Noted(sys::CUgraph);

impl Drop for Noted {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// What was noted, ready to be done.
pub(crate) struct Graph {
    exec: sys::CUgraphExec,
    /// Recorded before every replay: when it has come, the one before is done.
    done: Moment,
}

// SAFETY: a handle that the driver takes from any thread.
unsafe impl Send for Graph {}
// SAFETY: as above; replays are asked for under the device's lock.
unsafe impl Sync for Graph {}

impl Graph {
    /// Waits for the last replay but one: whoever asks for more than the device does would otherwise be heard late when
    /// they want to stop.
    pub(crate) fn wait(&self, op: &'static str) -> Result<()> {
        self.done.wait(op)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again. The driver keeps what a replay under way needs, and its memory
        // is used by others only after it.
        unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}
