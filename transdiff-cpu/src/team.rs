//! A team of threads for loops that last microseconds.
//!
//! An operation of a small model takes some 50 µs, about as long as a general thread pool takes to wake a thread
//! and to be woken in return. Here the caller works too, workers look for the next job for a while before they
//! sleep, and a worker that comes late is not waited for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Rounds of looking for a job before a worker sleeps: about 100 µs.
const PATIENCE: u32 = 3_000;
/// Of those, the rounds before it lets other threads of the machine go first.
const SELFISH: u32 = 1_000;

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
    next: AtomicUsize,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: AtomicUsize,
    stop: AtomicBool,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `job` is accessed as its comment says, ordered by `state`; everything else is thread-safe by itself.
unsafe impl Sync for Shared {}
// SAFETY: as above; a task may be called from any thread since it is `Sync`.
unsafe impl Send for Shared {}

/// Threads that help their caller. One caller at a time is helped; others work alone.
pub(crate) struct Team {
    shared: Arc<Shared>,
    busy: AtomicBool,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `size` threads, the caller included.
    pub(crate) fn new(size: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            state: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let mut team = Self { shared, busy: AtomicBool::new(false), workers: Vec::new() };
        for i in 1..size {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new().name(format!("transdiff-{i}"));
            team.workers.push(thread.spawn(move || shared.work())?);
        }
        Ok(team)
    }

    /// Calls `task` with every number below `count`, and returns when all calls have.
    ///
    /// # Panics
    /// If a call panics, with its payload, when no call runs any more.
    pub(crate) fn run(&self, count: usize, task: Task<'_>) {
        let alone = self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire);
        if alone {
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
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.ring();
        for worker in self.workers.drain(..) {
            // A worker catches what tasks panic with; there is nothing to hand on.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn open(&self, count: usize, task: Task<'_>) {
        // SAFETY: only the lifetime changes. `close` returns after the last worker has left the job, and the
        // caller, who holds the task, calls it before it returns.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the state is 0, so no worker is inside, and `busy` keeps other callers out.
        unsafe { *self.job.get() = Some(Job { task, count }) };
        self.next.store(0, Ordering::Relaxed);
        self.state.store(OPEN, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.ring();
        }
    }

    /// Works on the job's tasks until none is left. Called between `open` and `close`, or after joining.
    fn take_tasks(&self) {
        // SAFETY: the job is not written before everybody who may read it has left.
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

    /// Lets nobody join any more and waits for those who did.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0;
        while self.state.load(Ordering::Acquire) != 0 {
            pause(&mut rounds);
        }
    }

    fn join(&self) -> bool {
        let enter = |state: usize| (state & OPEN != 0).then_some(state + INSIDE);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_ok()
    }

    fn work(&self) {
        let mut rounds = 0;
        while !self.stop.load(Ordering::Relaxed) {
            // A job without tasks left is as good as none.
            if self.state.load(Ordering::Relaxed) & OPEN != 0 && self.join() {
                self.take_tasks();
                self.state.fetch_sub(INSIDE, Ordering::Release);
                rounds = 0;
            } else if rounds < PATIENCE {
                pause(&mut rounds);
            } else {
                self.sleep();
                rounds = 0;
            }
        }
    }

    /// Sleeps until the bell rings, unless there is something to do already.
    fn sleep(&self) {
        let guard = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let idle =
            |_: &mut ()| self.state.load(Ordering::SeqCst) & OPEN == 0 && !self.stop.load(Ordering::SeqCst);
        let guard = self.bell.wait_while(guard, idle).unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
    }

    fn ring(&self) {
        // Whoever is about to sleep holds the lock until it listens.
        drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_all();
    }
}

/// A moment's wait; a longer one after many.
fn pause(rounds: &mut u32) {
    *rounds = rounds.saturating_add(1);
    if *rounds < SELFISH { std::hint::spin_loop() } else { std::thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_from_any_caller() {
        let team = Team::new(3).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let team = &team;
                scope.spawn(move || {
                    for round in 0..500 {
                        let count = (round * 7 + caller) % 40;
                        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                        team.run(count, &|i| {
                            seen[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_sleeping_team_wakes() {
        let team = Team::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            team.run(10, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_nested_run_and_a_panic_leave_the_team_whole() {
        let team = Team::new(2).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            team.run(8, &|i| {
                team.run(2, &|_| ());
                assert!(i != 5, "task five");
            });
        }));
        let payload = panicked.unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"task five"));
        let count = AtomicUsize::new(0);
        team.run(100, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
    }
}
