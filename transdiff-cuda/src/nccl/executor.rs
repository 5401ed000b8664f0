//! Execution of a communicator's operations, on a stream of their own.

use std::ffi::c_void;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use transdiff_core::{Result, Tensor};

use super::comm::{Comm, Operation};
use super::library::{Functions, Handle, Status, values};
use crate::device::Cuda;
use crate::driver::{ContextGuard, Event, Stream};

/// Executes operations of a communicator while the device computes.
pub(super) struct Executor {
    // In drop order, like the fields of `Driver`.
    comm: Comm,
    /// Operations whose result was not waited for.
    abandoned: Mutex<Vec<InFlight<Tensors>>>,
    stream: Stream,
    drop_guard: Option<ContextGuard>,
    cuda: Cuda,
}

/// An operation that is being executed, with its memory.
pub(super) struct InFlight<M> {
    done: Event,
    memory: M,
}

/// The memory of an operation on tensors.
pub(super) struct Tensors {
    pub(super) result: Tensor<Cuda>,
    /// `None` if it is the result's.
    pub(super) _input: Option<Tensor<Cuda>>,
}

impl Executor {
    pub(super) fn new(comm: Comm, stream: Stream, cuda: Cuda) -> Self {
        Self { comm, abandoned: Mutex::default(), stream, drop_guard: None, cuda }
    }

    pub(super) fn comm(&self) -> &Comm {
        &self.comm
    }

    pub(super) fn cuda(&self) -> &Cuda {
        &self.cuda
    }

    /// Starts an operation with the arguments `call`, which uses `memory`.
    pub(super) fn start<M>(
        &self,
        operation: &Operation,
        memory: M,
        call: impl FnOnce(&Functions, Handle, *mut c_void) -> Status,
    ) -> Result<InFlight<M>> {
        let (name, driver) = (operation.name, &self.cuda.device.driver);
        let _context = driver.enter(name)?;
        let guard = self.cuda.lock_outside_capture(name)?;
        self.free_abandoned();
        driver.order_after_computation(name, &self.stream)?;
        let in_flight = InFlight { done: Event::new(name, Event::BLOCKING_SYNC)?, memory };
        // Other threads may use the device while the library is at work.
        drop(guard);
        let enqueued =
            self.comm.enqueue(operation, |functions, handle| call(functions, handle, self.stream.as_ptr()));
        let recorded = enqueued.and_then(|()| {
            let recorded = self.stream.record(name, &in_flight.done);
            recorded.map_err(|error| self.comm.fail(operation, &error.to_string()))
        });
        match recorded {
            Ok(()) => Ok(in_flight),
            Err(error) => {
                self.free_after_abort(in_flight);
                Err(error)
            }
        }
    }

    /// Waits until an operation is done, and returns its memory.
    pub(super) fn finish<M>(&self, operation: &Operation, in_flight: InFlight<M>) -> Result<M> {
        let _context = self.cuda.device.driver.enter(operation.name)?;
        // Its event needs the context when it is dropped, and arguments are dropped last.
        let in_flight = in_flight;
        match self.comm.wait(operation, &in_flight.done) {
            Ok(()) => Ok(in_flight.memory),
            Err(error) => {
                self.free_after_abort(in_flight);
                Err(error)
            }
        }
    }

    /// Keeps the memory of an operation that nobody waits for until it is done.
    pub(super) fn abandon(&self, in_flight: InFlight<Tensors>) {
        self.abandoned.lock().push(in_flight);
    }

    /// Frees what was abandoned and is done.
    fn free_abandoned(&self) {
        // The memory of an operation whose state cannot be queried stays in use.
        self.abandoned.lock().retain(|one| !one.done.is_complete("drop").unwrap_or(false));
    }

    /// Frees the memory of operations of the aborted communicator once the stream is idle; never, if it does not become so.
    fn free_after_abort<T>(&self, operations: T) {
        if !self.becomes_idle().unwrap_or(false) {
            mem::forget(operations);
        }
    }

    fn becomes_idle(&self) -> Result<bool> {
        const OP: &str = "abort";
        let last = Event::new(OP, Event::BLOCKING_SYNC)?;
        self.stream.record(OP, &last)?;
        let start = Instant::now();
        while !last.is_complete(OP)? {
            if start.elapsed() > self.comm.timeout() {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.drop_guard = self.cuda.device.driver.enter("drop").ok();
        self.free_abandoned();
        let abandoned = mem::take(self.abandoned.get_mut());
        if !abandoned.is_empty() {
            self.comm.abort("it has ended");
            self.free_after_abort(abandoned);
        }
    }
}

/// Makes several calls of the library one operation.
pub(super) fn grouped(functions: &Functions, mut calls: impl Iterator<Item = Status>) -> Status {
    let failed = |status: &Status| ![values::SUCCESS, values::IN_PROGRESS].contains(status);
    // SAFETY: no arguments.
    let started = unsafe { (functions.group_start)() };
    if failed(&started) {
        return started;
    }
    let first = calls.find(failed);
    // SAFETY: no arguments.
    let ended = unsafe { (functions.group_end)() };
    first.unwrap_or(ended)
}

/// Positions and counts of the parts of all ranks.
pub(super) fn parts(counts: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    counts.iter().scan(0, |end, &count| {
        *end += count;
        Some((*end - count, count))
    })
}
