//! A thread pool for loops that last microseconds.
//!
//! An operation of a small model takes some 50 µs, about as long as a general thread pool takes to wake a thread
//! and to be woken in return. Here the caller works too, workers spin for a while before they park, and the caller does
//! not wait for a worker that joins late.
//!
//! A forked child has none of the workers: in it the pool computes on the caller's thread and joins nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Spins of a worker without a job before it parks: about 100 µs.
const SPINS_BEFORE_PARK: u32 = 3_000;
/// Of those, the spins before it yields to other threads of the machine.
const SPINS_BEFORE_YIELD: u32 = 1_000;

/// Bit of [`Shared::state`] that says that workers may join; the rest counts those inside, in steps of [`INSIDE`].
const OPEN: usize = 1;
const INSIDE: usize = 2;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// A loop: `task(0)`, …, `task(count − 1)`, in any order.
struct Job {
    task: Task<'static>,
    count: usize,
}

struct Shared {
    /// Written by the caller while the state is 0; read by workers that have joined.
    job: UnsafeCell<Option<Job>>,
    state: AtomicUsize,
    /// Number of jobs so far, by which a worker that found no task left knows the job again.
    jobs: AtomicUsize,
    next: AtomicUsize,
    /// Payload of the first panic of a task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Number of parked workers.
    parked: AtomicUsize,
    stop: AtomicBool,
    mutex: Mutex<()>,
    condvar: Condvar,
}

// SAFETY: `job` is accessed as its comment says, ordered by `state`; everything else is thread-safe by itself.
unsafe impl Sync for Shared {}
// SAFETY: as above; a task may be called from any thread since it is `Sync`.
unsafe impl Send for Shared {}

/// Threads that help their caller. One caller at a time is helped; others work alone.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    busy: AtomicBool,
    workers: Vec<JoinHandle<()>>,
    /// Process that the workers belong to.
    process: u32,
}

impl ThreadPool {
    /// A pool of `size` threads, the caller included.
    pub(crate) fn new(size: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            state: AtomicUsize::new(0),
            jobs: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            mutex: Mutex::new(()),
            condvar: Condvar::new(),
        });
        let process = std::process::id();
        let mut pool = Self { shared, busy: AtomicBool::new(false), workers: Vec::new(), process };
        for i in 1..size {
            let (shared, (started, runs)) = (Arc::clone(&pool.shared), std::sync::mpsc::sync_channel(1));
            let thread = std::thread::Builder::new().name(format!("transdiff-{i}"));
            let work = move || {
                // Received below.
                let _ = started.send(());
                shared.work();
            };
            pool.workers.push(thread.spawn(work)?);
            // A new thread maps a signal stack, and the process aborts if it cannot. If threads are started one by one, it is
            // almost always the larger stack of the next thread that exceeds a limit on memory, which is an error.
            let _ = runs.recv();
        }
        Ok(pool)
    }

    /// Calls `task` with every number below `count`, and returns when all calls have.
    ///
    /// # Panics
    /// If a call panics: with the payload of the first panic, once no call is running.
    pub(crate) fn run(&self, count: usize, task: Task<'_>) {
        let alone = self.workers.is_empty() || self.is_inherited();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            return (0..count).for_each(task);
        }
        self.shared.open(count, task);
        self.shared.take_tasks();
        self.shared.close();
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Returns true in a forked child of the process that started the workers. Its locks may be held by threads that do
    /// not exist there.
    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        if self.is_inherited() {
            // Joining or detaching a thread that does not exist is an error.
            std::mem::forget(std::mem::take(&mut self.workers));
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks; there is nothing to return.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn open(&self, count: usize, task: Task<'_>) {
        // SAFETY: only the lifetime changes. `close` returns after the last worker has left the job, and the
        // caller, which holds the task, calls it before it returns.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the state is 0, so no worker is inside, and `busy` keeps other callers out.
        unsafe { *self.job.get() = Some(Job { task, count }) };
        self.next.store(0, Ordering::Relaxed);
        self.jobs.fetch_add(1, Ordering::SeqCst);
        self.state.store(OPEN, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    /// Works on the job's tasks until none is left. Called between `open` and `close`, or after joining.
    fn take_tasks(&self) {
        // SAFETY: the job is not written before all threads that may read it have left.
        let job = unsafe { (*self.job.get()).as_ref() };
        let Some(job) = job else { return };
        let work = || {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= job.count {
                    return;
                }
                (job.task)(i);
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
            self.next.store(job.count, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }

    /// Closes the job to workers, and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.state.load(Ordering::Acquire) != 0 {
            pause(&mut spins);
        }
    }

    fn join(&self) -> bool {
        let enter = |state: usize| (state & OPEN != 0).then_some(state + INSIDE);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_ok()
    }

    fn work(&self) {
        let (mut spins, mut finished) = (0, 0);
        while !self.stop.load(Ordering::Relaxed) {
            // Read before joining: if another job opens in between, its tasks are looked for once more.
            let job = self.jobs.load(Ordering::Relaxed);
            if job != finished && self.state.load(Ordering::Relaxed) & OPEN != 0 && self.join() {
                self.take_tasks();
                self.state.fetch_sub(INSIDE, Ordering::Release);
                (spins, finished) = (0, job);
            } else if spins < SPINS_BEFORE_PARK {
                pause(&mut spins);
            } else {
                self.park(finished);
                spins = 0;
            }
        }
    }

    /// Parks the worker until [`wake_all`](Self::wake_all), unless there is a job other than `finished` already.
    fn park(&self, finished: usize) {
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, Ordering::SeqCst);
        let idle = |_: &mut ()| {
            let open = self.state.load(Ordering::SeqCst) & OPEN != 0;
            (!open || self.jobs.load(Ordering::SeqCst) == finished) && !self.stop.load(Ordering::SeqCst)
        };
        let guard = self.condvar.wait_while(guard, idle).unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
    }

    fn wake_all(&self) {
        // A worker that is about to park holds the lock until it waits.
        drop(self.mutex.lock().unwrap_or_else(PoisonError::into_inner));
        self.condvar.notify_all();
    }
}

/// One spin; after many it yields to other threads.
fn pause(spins: &mut u32) {
    *spins = spins.saturating_add(1);
    if *spins < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { std::thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_from_any_caller() {
        let pool = ThreadPool::new(3).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..500 {
                        let count = (round * 7 + caller) % 40;
                        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                        pool.run(count, &|i| {
                            seen[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn parked_workers_wake() {
        let pool = ThreadPool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.run(10, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    /// A worker leaves the processor to others while the caller runs the last task.
    #[test]
    fn workers_park_beside_a_long_task() {
        let (pool, caller) = (ThreadPool::new(2).unwrap(), std::thread::current().id());
        let (seen, start) = (AtomicBool::new(false), std::time::Instant::now());
        // One that parked before the task was opened wakes: only if it stays parked has it left.
        let wait_until_it_stays_parked = || {
            let mut samples = 0;
            while samples < 20 {
                assert!(start.elapsed().as_secs() < 120, "the worker parks");
                std::thread::sleep(std::time::Duration::from_millis(5));
                samples = if pool.shared.parked.load(Ordering::SeqCst) == 1 { samples + 1 } else { 0 };
            }
            seen.store(true, Ordering::Relaxed);
        };
        // The worker may be the one that takes the task.
        while !seen.load(Ordering::Relaxed) {
            pool.run(1, &|_| {
                if std::thread::current().id() == caller {
                    wait_until_it_stays_parked();
                }
            });
        }
    }

    #[test]
    fn pool_survives_nested_runs_and_panics() {
        let pool = ThreadPool::new(2).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|i| {
                pool.run(2, &|_| ());
                assert!(i != 5, "task five");
            });
        }));
        let payload = panicked.unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"task five"));
        let count = AtomicUsize::new(0);
        pool.run(100, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
    }
}
