//! A transport of host bytes by NCCL, for jobs without another.

use std::ffi::c_void;
use std::fmt;
use std::process;
use std::time::Duration;

use transdiff_core::distributed::Communicator;
use transdiff_core::{Error, Result};

use super::comm::{Comm, Operation};
use super::executor::{Executor, grouped, parts};
use super::launch::NcclLaunch;
use super::library::{Functions, Handle, Library, Status, values};
use crate::device::Cuda;
use crate::storage::{read, try_with_capacity, upload};

/// The processes that a launcher like torchrun has started, connected by NCCL alone. Each has a GPU of its own.
///
/// Bytes go by way of the device's memory, of which an exchange takes what the rank sends and receives. [`Nccl`](super::Nccl),
/// the sums of tensors, has an NCCL communicator of its own beside this one. Operations of both must not be in progress at
/// once, because ranks that start them in different orders may wait for each other: a result of `Nccl` is waited for before
/// this is used, as the trainer does.
pub struct NcclRanks {
    launch: NcclLaunch,
    executor: Executor,
}

impl NcclRanks {
    /// Meets the other ranks, which must all call this after [`NcclLaunch::announce`]. Waits at most `timeout` for them, here
    /// and in every operation.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no NCCL, or the address is not announced; [`Error::Backend`] with the address if
    /// the ranks do not meet there in time, or two have the same GPU.
    pub fn new(cuda: &Cuda, launch: NcclLaunch, timeout: Duration) -> Result<Self> {
        const OP: &str = "NcclRanks::new";
        let unavailable = |reason| Error::Unavailable { device: format!("cuda:{}", cuda.ordinal()), reason };
        launch.check_announced().map_err(unavailable)?;
        let library = Library::load().map_err(unavailable)?;
        let id = library.unique_id().map_err(unavailable)?;
        let _context = cuda.device.driver.enter(OP)?;
        let stream = cuda.device.driver.new_stream(OP)?;
        let (rank, size) = (launch.rank(), launch.size());
        let comm = Comm::join(OP, library, id, [rank, size], timeout).map_err(|error| match error {
            Error::Backend { op, message } => {
                let message = format!("rank {rank} of {size}, which meet at {}: {message}", launch.address());
                Error::Backend { op, message }
            }
            error => error,
        })?;
        Ok(Self { launch, executor: Executor::new(comm, stream, cuda.clone()) })
    }

    /// Sends `send`, and returns the `received` bytes that `call` receives, whose arguments are the addresses of both.
    fn exchange(
        &self,
        name: &'static str,
        send: &[u8],
        received: usize,
        call: impl FnOnce([u64; 2], &Functions, Handle, *mut c_void) -> Status,
    ) -> Result<Vec<u8>> {
        let cuda = self.executor.cuda();
        let mut bytes = try_with_capacity(received)?;
        let (from, to) = (upload(cuda, send)?, cuda.scratch(name, received)?);
        let addresses = [from.address(), to.address()];
        let operation = Operation { name, extent: format!("{} bytes, {received} received", send.len()) };
        let in_flight = self.executor.start(&operation, (from, to), |functions, handle, stream| {
            call(addresses, functions, handle, stream)
        })?;
        let (_, to) = self.executor.finish(&operation, in_flight)?;
        if received > 0 {
            read(cuda, to.address(), &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Checks that there is a count per rank, and that this rank sends `expected` bytes of them.
    fn check(&self, counts: &[usize], send: &[u8], expected: impl FnOnce() -> usize) -> Result<()> {
        let size = self.size();
        if counts.len() != size {
            return Err(Error::argument("counts", format!("{size}, one per rank"), counts.len()));
        }
        match expected() {
            expected if expected == send.len() => Ok(()),
            expected => Err(Error::argument("bytes", format!("{expected}, as the counts say"), send.len())),
        }
    }
}

impl Communicator for NcclRanks {
    fn rank(&self) -> usize {
        self.launch.rank()
    }

    fn size(&self) -> usize {
        self.launch.size()
    }

    fn local_rank(&self) -> usize {
        self.launch.local_rank()
    }

    fn local_size(&self) -> usize {
        self.launch.local_size()
    }

    fn all_to_all(&self, send: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        self.check(counts, send, || counts.iter().sum())?;
        if send.is_empty() {
            return Ok(Vec::new());
        }
        let (ranks, own) = (self.size(), counts[self.rank()]);
        self.exchange("all_to_all", send, own * ranks, |[from, to], functions, handle, stream| {
            let sends = parts(counts).enumerate().filter(|&(_, (_, count))| count > 0);
            let sends = sends.map(|(rank, (start, count))| {
                let from = from + start as u64;
                // SAFETY: `count` bytes of device memory, in use until the operation is done.
                unsafe { (functions.send)(from, count, values::UINT8, rank as i32, handle, stream) }
            });
            let receives = (0..if own > 0 { ranks } else { 0 }).map(|rank| {
                let to = to + (rank * own) as u64;
                // SAFETY: as above, `own` bytes.
                unsafe { (functions.receive)(to, own, values::UINT8, rank as i32, handle, stream) }
            });
            grouped(functions, sends.chain(receives))
        })
    }

    fn all_gather(&self, part: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        self.check(counts, part, || counts[self.rank()])?;
        let total = counts.iter().sum();
        if total == 0 {
            return Ok(Vec::new());
        }
        self.exchange("all_gather", part, total, |[from, to], functions, handle, stream| {
            let parts = parts(counts).enumerate().filter(|&(_, (_, count))| count > 0);
            let broadcasts = parts.map(|(root, (start, count))| {
                let to = to + start as u64;
                // SAFETY: `count` bytes of device memory, in use until the operation is done; only the root's are read.
                unsafe { (functions.broadcast)(from, to, count, values::UINT8, root as i32, handle, stream) }
            });
            grouped(functions, broadcasts)
        })
    }

    /// Ends this process; its launcher then ends the others.
    fn abort(&self, exit_code: i32) -> ! {
        self.executor.comm().abort("the job has ended");
        process::exit(exit_code)
    }
}

impl fmt::Debug for NcclRanks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NcclRanks(rank {} of {})", self.rank(), self.size())
    }
}
