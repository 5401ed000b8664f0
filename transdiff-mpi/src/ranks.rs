//! The ranks of an MPI job.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mpi::environment::Universe;
use mpi::ffi;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::AsRaw;
use mpi::{Threading, initialize_with_threading};
use transdiff_core::Result;
use transdiff_core::distributed::Communicator;

use crate::launcher;
use crate::transfer::{Transfer, check, failure};

/// The ranks of an MPI job, of which this process is one.
///
/// Any thread may use it, one at a time. Dropping it, on the thread that made it, waits for
/// the other ranks to do the same, and ends MPI, unless an operation
/// has failed or the thread panics: launchers then see a process that has ended too early, and end the job. A process that
/// fails by itself calls [`abort`](Communicator::abort).
pub struct Mpi {
    world: ManuallyDrop<World>,
    universe: ManuallyDrop<Universe>,
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    timeout: Duration,
    /// True until an operation fails. The ranks then no longer agree on the operations that follow.
    usable: Mutex<bool>,
}

/// The communicator of all ranks, apart from other users of MPI in the process.
struct World(SimpleCommunicator);

// SAFETY: the library provides MPI_THREAD_MULTIPLE, with which any thread may use any handle.
unsafe impl Send for World {}
// SAFETY: as for Send; operations of the communicator are serialised by `Mpi::usable`.
unsafe impl Sync for World {}

impl Mpi {
    /// Starts MPI, together with all ranks. An operation fails if it takes longer than `timeout`, as it does if a rank hangs.
    /// Failures of MPI in this function end the job, with MPI's message.
    ///
    /// # Errors
    /// [`Error::Backend`](transdiff_core::Error::Backend) if MPI has been started in this process before, does not let several
    /// threads call it, or finds one process where the launcher started several.
    pub fn new(timeout: Duration) -> Result<Self> {
        let op = "MPI_Init_thread";
        let (universe, threading) = initialize_with_threading(Threading::Multiple)
            .ok_or_else(|| failure(op, "MPI has been started in this process before"))?;
        let universe = ManuallyDrop::new(universe);
        if threading != Threading::Multiple {
            let name = ["single", "funneled", "serialized", "multiple"][threading as usize];
            let message =
                format!("expected an MPI library with thread support \"multiple\", got one with \"{name}\"");
            return Err(failure(op, message));
        }
        let all = universe.world();
        let (rank, size) = (all.rank() as usize, all.size() as usize);
        launcher::check_size(size)?;
        let local = all.split_shared(all.rank());
        let world = ManuallyDrop::new(World(all.duplicate()));
        for communicator in [&all, &world.0] {
            // SAFETY: a valid communicator and a constant of the library.
            let code =
                unsafe { ffi::MPI_Comm_set_errhandler(communicator.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
            check(op, code)?;
        }
        let (local_rank, local_size) = (local.rank() as usize, local.size() as usize);
        let usable = Mutex::new(true);
        Ok(Self { world, universe, rank, size, local_rank, local_size, timeout, usable })
    }

    /// Executes `transfer` among the ranks of `communicator`, as the only one.
    fn run(&self, communicator: &SimpleCommunicator, transfer: Transfer) -> Result<Vec<u8>> {
        let mut usable = self.usable.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *usable, false) {
            return Err(failure("MPI", "an earlier operation has failed"));
        }
        // SAFETY: MPI is initialised until `self` is dropped; the counts' number has been checked.
        let received = unsafe { transfer.run(communicator.as_raw(), self.size, self.timeout) }?;
        *usable = true;
        Ok(received)
    }

    fn check_counts(&self, op: &'static str, counts: &[usize]) -> Result<()> {
        match counts.len() == self.size {
            true => Ok(()),
            false => Err(failure(
                op,
                format!("expected a count for each of {} ranks, got {}", self.size, counts.len()),
            )),
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn local_size(&self) -> usize {
        self.local_size
    }

    fn all_to_all(&self, send: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        self.check_counts("all_to_all", counts)?;
        self.run(&self.world.0, Transfer::all_to_all(send, counts, self.rank)?)
    }

    fn all_gather(&self, part: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        self.check_counts("all_gather", counts)?;
        self.run(&self.world.0, Transfer::all_gather(part, counts, self.rank)?)
    }

    fn abort(&self, exit_code: i32) -> ! {
        self.world.0.abort(exit_code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // MPI_Finalize waits for the other ranks, without an end if one of them does not come: so they are waited for before.
        // In a communicator of its own, the barrier is not taken for another operation of a rank that is not at its end.
        if std::thread::panicking() || self.run(&self.universe.world(), Transfer::barrier()).is_err() {
            return;
        }
        // SAFETY: neither field is used again. MPI ends last.
        unsafe {
            ManuallyDrop::drop(&mut self.world);
            ManuallyDrop::drop(&mut self.universe);
        }
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi(rank {} of {})", self.rank, self.size)
    }
}
