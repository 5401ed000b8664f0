//! The backend's handle, its threads, and how work is handed to them.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use transdiff_core::{Error, Result};

use crate::recycle::Recycler;
use crate::team::Team;

/// Work below this estimate, in nanoseconds, is done by the caller: handing it to a thread costs about a tenth of it.
const WORTH_SHARING: usize = 15_000;

/// More threads than any machine has cores for: starting as many as a caller may ask for could take all of a process's.
const MOST_THREADS: usize = 1024;

/// The CPU as a device. Clones share their threads and their memory.
#[derive(Clone)]
pub struct Cpu {
    team: Arc<Team>,
    recycler: Arc<Recycler>,
    threads: usize,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("threads", &self.threads).finish()
    }
}

impl Default for Cpu {
    /// As many threads as the machine offers.
    ///
    /// # Panics
    /// If the threads cannot be started.
    fn default() -> Self {
        Self::new(None).expect("starting the threads of the pool")
    }
}

impl Cpu {
    /// A backend with `threads` threads of its own, by default as many as the machine offers.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 threads or more than 1024, [`Error::Backend`] if they cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        if let Some(bad) = threads.filter(|n| !(1..=MOST_THREADS).contains(n)) {
            return Err(Error::argument("threads", format!("a number in 1..={MOST_THREADS}"), bad));
        }
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        let team =
            Team::new(threads).map_err(|e| Error::Backend { op: "Cpu::new", message: e.to_string() })?;
        Ok(Self { team: Arc::new(team), recycler: Arc::default(), threads })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Gives the memory that is kept for later tensors back to the system.
    pub fn trim(&self) {
        self.recycler.trim();
    }

    pub(crate) fn recycler(&self) -> &Arc<Recycler> {
        &self.recycler
    }

    /// Whether work of `cost` nanoseconds is done by several threads.
    pub(crate) fn shares(&self, cost: usize) -> bool {
        self.threads > 1 && cost >= WORTH_SHARING
    }

    /// Calls `f` with every number below `tasks`; `cost` estimates all of it, in nanoseconds.
    pub(crate) fn run(&self, tasks: usize, cost: usize, f: impl Fn(usize) + Send + Sync) {
        if tasks > 1 && self.shares(cost) {
            self.team.run(tasks, &f);
        } else {
            (0..tasks).for_each(f);
        }
    }

    /// Calls `f` with each run of `chunk` elements of `out` and the index of its first.
    pub(crate) fn chunks<T: Send>(
        &self,
        out: &mut [T],
        chunk: usize,
        cost: usize,
        f: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let (chunk, len) = (chunk.max(1), out.len());
        let out = Shared::new(out);
        self.run(len.div_ceil(chunk), cost, |i| {
            let from = i * chunk;
            // SAFETY: runs of different tasks do not overlap.
            f(from, unsafe { out.part(from, chunk.min(len - from)) });
        });
    }
}

/// A slice whose disjoint parts are written by several tasks.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: access goes through `part` and `at`, whose callers promise that parts do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements `from..from + len`.
    ///
    /// # Safety
    /// They lie within the slice, and no other part in use shares any of them.
    pub(crate) unsafe fn part(self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from <= self.len && len <= self.len - from, "a kernel left its output");
        // SAFETY: within the slice, and not aliased, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Position of element `from`, or the end.
    pub(crate) fn at(self, from: usize) -> *mut T {
        assert!(from <= self.len);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(from) }
    }
}
