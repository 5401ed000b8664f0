//! The CPU as a device: its threads and its memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use transdiff_core::{Error, Result};

use crate::caching_allocator::CachingAllocator;
use crate::instruction_set::InstructionSet;
use crate::thread_pool::ThreadPool;

/// Estimated work, in nanoseconds, below which the caller does all of it: waking a thread costs about a tenth of it.
const WORTH_SHARING: usize = 15_000;

/// More threads than any machine has cores for: an unlimited request could take all threads that a process may have.
const MAX_THREADS: usize = 1024;

/// The CPU as a device. Clones share their threads and their memory.
#[derive(Clone)]
pub struct Cpu {
    pool: Arc<ThreadPool>,
    allocator: Arc<CachingAllocator>,
    threads: usize,
    instruction_set: InstructionSet,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("threads", &self.threads)
            .field("instruction_set", &self.instruction_set)
            .finish()
    }
}

impl Default for Cpu {
    /// One thread per core that the process may use.
    ///
    /// # Panics
    /// If the threads cannot be started, or the environment names an instruction set that is unknown or not available.
    fn default() -> Self {
        Self::new(None).expect("starting the threads of the pool")
    }
}

impl Cpu {
    /// A backend with a pool of `threads` threads, by default one per core that the process may use, and the instruction
    /// set [of the environment](InstructionSet::from_environment).
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 threads or more than 1024, and for an instruction set that is unknown or not available;
    /// [`Error::Backend`] if threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with_instruction_set(threads, InstructionSet::from_environment()?)
    }

    /// [`new`](Self::new) with the given instruction set.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 threads or more than 1024, and for an instruction set that is not available;
    /// [`Error::Backend`] if threads cannot be started.
    pub fn with_instruction_set(threads: Option<usize>, instruction_set: InstructionSet) -> Result<Self> {
        if !instruction_set.is_available() {
            let expected = "an instruction set that this processor has";
            return Err(Error::argument("instruction_set", expected, instruction_set));
        }
        if let Some(bad) = threads.filter(|n| !(1..=MAX_THREADS).contains(n)) {
            return Err(Error::argument("threads", format!("a number in 1..={MAX_THREADS}"), bad));
        }
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        let pool = ThreadPool::new(threads).map_err(|e| {
            let remedy =
                "use fewer threads, or raise the limits on processes (ulimit -u) and memory (ulimit -v)";
            Error::Backend {
                op: "Cpu::new",
                message: format!("the system cannot start {threads} threads: {e}; {remedy}"),
            }
        })?;
        Ok(Self { pool: Arc::new(pool), allocator: Arc::default(), threads, instruction_set })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The most capable instruction set that matrix products use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// Returns the memory that is cached for later tensors to the system.
    pub fn trim(&self) {
        self.allocator.trim();
    }

    pub(crate) fn allocator(&self) -> &Arc<CachingAllocator> {
        &self.allocator
    }

    /// Returns true if several threads share work of `cost` nanoseconds.
    pub(crate) fn shares(&self, cost: usize) -> bool {
        self.threads > 1 && cost >= WORTH_SHARING
    }

    /// Calls `f` with every number below `tasks`; `cost` estimates all of it, in nanoseconds.
    pub(crate) fn run(&self, tasks: usize, cost: usize, f: impl Fn(usize) + Send + Sync) {
        if tasks > 1 && self.shares(cost) {
            self.pool.run(tasks, &f);
        } else {
            (0..tasks).for_each(f);
        }
    }

    /// Calls `f` with every item, from any thread; `cost` estimates all of it, in nanoseconds.
    ///
    /// Items may own parts of outputs: with zipped chunks of slices no unsafe code has to promise that the parts are
    /// disjoint.
    pub(crate) fn for_each<I: Iterator + Send>(
        &self,
        items: I,
        cost: usize,
        f: impl Fn(I::Item) + Send + Sync,
    ) {
        if matches!(items.size_hint().1, Some(0 | 1)) || !self.shares(cost) {
            return items.for_each(f);
        }
        let items = Mutex::new(items);
        // The lock is released before `f` gets the item.
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.pool.run(self.threads, &|_| {
            while let Some(item) = next() {
                f(item);
            }
        });
    }

    /// Calls `f` with each chunk of `chunk` elements of `out` and the index of its first.
    pub(crate) fn chunks<T: Send>(
        &self,
        out: &mut [T],
        chunk: usize,
        cost: usize,
        f: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let chunk = chunk.max(1);
        self.for_each(out.chunks_mut(chunk).enumerate(), cost, |(i, part)| f(i * chunk, part));
    }
}
