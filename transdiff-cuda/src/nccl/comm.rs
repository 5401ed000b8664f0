//! The NCCL communicator: calls that can time out, and its end.

use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use transdiff_core::{Error, Result};

use super::library::{Config, Functions, Handle, Library, Status, UniqueId, values};
use crate::driver::Event;

/// An operation in error messages.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// Number and type of its elements.
    pub(super) extent: String,
}

/// An NCCL communicator of this rank with all others.
///
/// It does not block: calls return while the library is still at work, and their end is polled for, so that a rank that has
/// ended is an error. After an error it is aborted, and every call fails.
pub(super) struct Comm {
    library: Library,
    state: Mutex<State>,
    rank: usize,
    ranks: usize,
    timeout: Duration,
}

struct State {
    /// Null once destroyed or aborted.
    handle: Handle,
    /// The first error.
    failure: Option<String>,
}

// SAFETY: the library accepts a handle from any thread, one at a time; it is used under the lock.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}

/// Pauses between polls, which become longer.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    fn pause(&mut self) {
        /// Polls before a pause lets the thread sleep: most calls are done by then.
        const YIELDS: u32 = 200;
        self.0 += 1;
        if self.0 < YIELDS { thread::yield_now() } else { thread::sleep(Duration::from_micros(100)) }
    }
}

impl Comm {
    /// Joins the communicator `id` as `rank` of `ranks`, on the GPU whose context is current. All ranks do so.
    pub(super) fn join(
        op: &'static str,
        library: Library,
        id: UniqueId,
        [rank, ranks]: [usize; 2],
        timeout: Duration,
    ) -> Result<Self> {
        let state = Mutex::new(State { handle: ptr::null_mut(), failure: None });
        let comm = Self { library, state, rank, ranks, timeout };
        let (mut handle, config) = (ptr::null_mut(), Config::non_blocking());
        let init = comm.library.functions.init;
        // SAFETY: the pointers are valid.
        let status = unsafe { init(&mut handle, ranks as i32, id, rank as i32, &config) };
        comm.state.lock().handle = handle;
        let joined = comm.finish(handle, "ncclCommInitRankConfig", status);
        if let Err(reason) = joined {
            comm.abort(&reason);
            let message = format!("NCCL {}: {reason}", comm.library.version);
            return Err(Error::Backend { op, message });
        }
        Ok(comm)
    }

    /// Version of the library.
    pub(super) fn version(&self) -> String {
        self.library.version.to_string()
    }

    /// Longest wait for the other ranks.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Calls `call`, and waits until the library has enqueued its work.
    pub(super) fn enqueue(
        &self,
        operation: &Operation,
        call: impl FnOnce(&Functions, Handle) -> Status,
    ) -> Result<()> {
        let state = self.state.lock();
        self.check_usable(&state, operation)?;
        let handle = state.handle;
        let enqueued =
            self.finish(handle, "the start of the operation", call(&self.library.functions, handle));
        drop(state);
        enqueued.map_err(|reason| self.fail(operation, &reason))
    }

    /// Waits until `done`, the end of an operation, is complete.
    pub(super) fn wait(&self, operation: &Operation, done: &Event) -> Result<()> {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let status = self.status();
            let complete = done.is_complete(operation.name);
            // After an abort the event completes, too.
            self.check_usable(&self.state.lock(), operation)?;
            let reason = match complete {
                Ok(true) => return Ok(()),
                Ok(false) => match status {
                    values::SUCCESS | values::IN_PROGRESS if start.elapsed() < self.timeout => {
                        backoff.pause();
                        continue;
                    }
                    values::SUCCESS | values::IN_PROGRESS => self.timed_out("no result"),
                    // Of this operation, or of one before: it is not complete after the error.
                    status => self.library.message("another rank, or the network", status),
                },
                Err(error) => error.to_string(),
            };
            return Err(self.fail(operation, &reason));
        }
    }

    /// Waits until a call is done whose status was `status`.
    fn finish(&self, handle: Handle, call: &str, mut status: Status) -> Result<(), String> {
        let (start, mut backoff) = (Instant::now(), Backoff::default());
        while status == values::IN_PROGRESS && !handle.is_null() {
            if start.elapsed() > self.timeout {
                return Err(self.timed_out(&format!("{call} is not done")));
            }
            backoff.pause();
            status = self.status_of(handle);
        }
        if status == values::SUCCESS { Ok(()) } else { Err(self.library.message(call, status)) }
    }

    fn timed_out(&self, what: &str) -> String {
        format!(
            "{what} after {} s: a rank has ended, or is late, or is in another operation{}",
            self.timeout.as_secs_f64(),
            self.library.last_message()
        )
    }

    fn status(&self) -> Status {
        let state = self.state.lock();
        if state.handle.is_null() { values::SUCCESS } else { self.status_of(state.handle) }
    }

    /// Status of the last call and of the operations since.
    fn status_of(&self, handle: Handle) -> Status {
        let mut status = values::SUCCESS;
        // SAFETY: the handle and the pointer are valid.
        match unsafe { (self.library.functions.async_error)(handle, &mut status) } {
            values::SUCCESS => status,
            failed => failed,
        }
    }

    fn check_usable(&self, state: &State, operation: &Operation) -> Result<()> {
        match &state.failure {
            None => Ok(()),
            Some(first) => {
                Err(self.error(operation, &format!("not possible after an earlier error: {first}")))
            }
        }
    }

    /// Aborts the communicator, and returns the error of `operation`.
    pub(super) fn fail(&self, operation: &Operation, reason: &str) -> Error {
        self.abort(&format!("{} of {}: {reason}", operation.name, operation.extent));
        self.error(operation, reason)
    }

    fn error(&self, operation: &Operation, reason: &str) -> Error {
        let (rank, ranks, version, extent) = (self.rank, self.ranks, self.library.version, &operation.extent);
        let message = format!("{extent}, rank {rank} of {ranks}, NCCL {version}: {reason}");
        Error::Backend { op: operation.name, message }
    }

    /// Ends operations in progress; all later ones fail with `reason`.
    pub(super) fn abort(&self, reason: &str) {
        let mut state = self.state.lock();
        state.failure.get_or_insert_with(|| reason.into());
        let handle = std::mem::replace(&mut state.handle, ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the handle is valid, and not used again. There is no way to handle a failure here.
            unsafe { (self.library.functions.abort)(handle) };
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        let handle = self.state.get_mut().handle;
        if handle.is_null() {
            return;
        }
        // The other ranks may still receive what this rank has sent: the library is given time to send it.
        // SAFETY: the handle is valid.
        let status = unsafe { (self.library.functions.finalize)(handle) };
        if self.finish(handle, "ncclCommFinalize", status).is_err() {
            self.abort("it has ended");
            return;
        }
        // SAFETY: the handle is valid, and not used again.
        unsafe { (self.library.functions.destroy)(handle) };
    }
}
