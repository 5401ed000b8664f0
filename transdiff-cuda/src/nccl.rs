//! Collectives by NCCL, loaded at run time: sums of tensors over the GPUs of all ranks.
//!
//! Operations are executed on a stream of their own, while the device computes. An operation starts once the work that was
//! enqueued before it is done; its memory stays in use until it is done, so that the caching allocator, which knows one stream,
//! does not give it away earlier. Buckets come from the allocator's cache like other tensors: it hands the same blocks out again
//! in every step.
//!
//! Waiting for a result polls from the host until the operation is done. That costs no overlap with computation, because the
//! backward pass has been enqueued by then, but the device has no work queued when the wait ends: the time to launch a kernel,
//! once per wait, which the norm of the gradients, read by the host, costs anyway. In return an error of a rank or of the
//! network is returned by the operation that it hit, and no result of incomplete sums is used.

mod comm;
mod executor;
mod launch;
mod library;
mod ranks;
mod transport;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use transdiff_core::distributed::{Collectives, Communicator, Pending, agree};
use transdiff_core::{DType, Error, Result, Tensor};

use crate::device::{Address, Cuda};
use crate::driver::Stream;
use comm::{Comm, Operation};
use executor::{Executor, InFlight, Tensors, grouped, parts};
pub use launch::NcclLaunch;
use library::{Functions, Handle, Library, Status, values};
use ranks::{Report, meet};
pub use transport::NcclRanks;

/// Collectives of [`Cuda`] by NCCL, `libnccl.so.2`, version 2.14 or later. Each rank has a GPU of its own.
///
/// Supports f32 and bf16. NCCL adds in the type of the elements and in an order that depends on the ranks and their connections:
/// sums are bitwise equal from run to run with the same ranks, machines and version. `reduce_scatter` and `all_gather` with
/// equal counts are single operations of NCCL; with unequal counts they are a group of one per rank, which takes longer with
/// many ranks.
pub struct Nccl {
    executor: Arc<Executor>,
    communicator: Arc<dyn Communicator>,
}

impl Nccl {
    /// Collectives of the ranks of `communicator`, which must all call this. Waits at most `timeout` for the other ranks, here
    /// and when a result is waited for.
    ///
    /// # Errors
    /// [`Error::Unavailable`] on all ranks, naming one of them and its reason, if it has no NCCL or another version, two have
    /// the same GPU, or they cannot connect; [`Error::Backend`] if `communicator` fails.
    pub fn new(cuda: &Cuda, communicator: Arc<dyn Communicator>, timeout: Duration) -> Result<Self> {
        const OP: &str = "Nccl::new";
        let unavailable = |reason| Error::Unavailable { device: format!("cuda:{}", cuda.ordinal()), reason };
        // All ranks have the error of one.
        let common = |error| match error {
            Error::Rank { rank, message } => unavailable(format!("rank {rank}: {message}")),
            error => error,
        };
        let (rank, ranks) = (communicator.rank(), communicator.size());
        let _context = cuda.device.driver.enter(OP)?;
        let (outcome, prepared) = match prepare(OP, cuda, rank) {
            Ok((library, stream, report)) => (Ok(report), Some((library, stream))),
            Err(error) => (Err(error), None),
        };
        let reports = agree(&*communicator, outcome).map_err(common)?;
        let (library, stream) = prepared.expect("no rank has failed");
        let id = meet(&reports).map_err(unavailable)?;
        let comm = Comm::join(OP, library, id, [rank, ranks], timeout);
        let (outcome, comm) = match comm {
            Ok(comm) => (Ok(()), Some(comm)),
            Err(error) => (Err(error), None),
        };
        agree(&*communicator, outcome).map_err(common)?;
        let comm = comm.expect("no rank has failed");
        Ok(Self { executor: Arc::new(Executor::new(comm, stream, cuda.clone())), communicator })
    }

    /// Version of the library, such as 2.27.3.
    pub fn version(&self) -> String {
        self.executor.comm().version()
    }

    /// Starts an operation with the arguments `call`, which writes `result` and reads `input`.
    fn start(
        &self,
        name: &'static str,
        input: Option<Tensor<Cuda>>,
        result: Tensor<Cuda>,
        call: impl FnOnce(&Functions, Handle, *mut c_void) -> Status,
    ) -> Result<Pending<Cuda>> {
        let elements = input.as_ref().map_or(0, Tensor::numel).max(result.numel());
        if elements == 0 {
            return Ok(Pending::new(|| Ok(result)));
        }
        let operation = Operation { name, extent: format!("{elements} elements of {}", result.dtype()) };
        let executor = Arc::clone(&self.executor);
        let in_flight = executor.start(&operation, Tensors { result, _input: input }, call)?;
        let started = Started { in_flight: Some(in_flight), operation, executor };
        Ok(Pending::new(move || started.wait()))
    }

    fn check_counts(&self, name: &'static str, counts: &[usize], got: usize, expected: usize) -> Result<()> {
        let ranks = self.communicator.size();
        if counts.len() != ranks {
            let (expected, got) = (format!("{ranks}, one per rank"), counts.len().to_string());
            return Err(Error::Argument { argument: "counts", expected, got });
        }
        match got == expected {
            true => Ok(()),
            false => Err(Error::shape(name, format!("{expected} elements"), &[got])),
        }
    }
}

/// The library, a stream for its operations, and what the other ranks need to know.
fn prepare(op: &'static str, cuda: &Cuda, rank: usize) -> Result<(Library, Stream, Report)> {
    let unavailable = |reason| Error::Unavailable { device: format!("cuda:{}", cuda.ordinal()), reason };
    let library = Library::load().map_err(unavailable)?;
    let id = match rank {
        0 => library.unique_id().map_err(unavailable)?.0.to_vec(),
        _ => Vec::new(),
    };
    let _guard = cuda.lock_outside_capture(op)?;
    let driver = &cuda.device.driver;
    let report = (library.version.0, driver.uuid(op)?, id);
    Ok((library, driver.new_stream(op)?, report))
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nccl").field(&self.communicator).finish()
    }
}

/// An operation that was started.
struct Started {
    /// `None` once it is done.
    in_flight: Option<InFlight<Tensors>>,
    operation: Operation,
    executor: Arc<Executor>,
}

impl Started {
    fn wait(mut self) -> Result<Tensor<Cuda>> {
        let in_flight = self.in_flight.take().expect("present until it is done");
        self.executor.finish(&self.operation, in_flight).map(|tensors| tensors.result)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            self.executor.abandon(in_flight);
        }
    }
}

/// NCCL's number of an element type.
fn data_type(name: &'static str, dtype: DType) -> Result<c_int> {
    match dtype {
        DType::F32 => Ok(values::FLOAT32),
        DType::BF16 => Ok(values::BFLOAT16),
        got => Err(Error::DType { op: name, expected: "f32 or bf16".into(), got }),
    }
}

/// The common count, if there is one.
fn equal(counts: &[usize]) -> Option<usize> {
    let first = *counts.first()?;
    counts.iter().all(|&count| count == first).then_some(first)
}

impl Collectives<Cuda> for Nccl {
    fn communicator(&self) -> &Arc<dyn Communicator> {
        &self.communicator
    }

    /// In the memory of `values`, if no other tensor shares it.
    fn all_reduce(&self, values: Tensor<Cuda>) -> Result<Pending<Cuda>> {
        const NAME: &str = "all_reduce";
        let (data_type, count) = (data_type(NAME, values.dtype())?, values.numel());
        let mut sum = if values.layout().is_contiguous() { values } else { values.copy()? };
        let address = sum.make_mut()?.address();
        self.start(NAME, None, sum, |functions, handle, stream| {
            // SAFETY: `count` elements of device memory, in use until the operation is done.
            unsafe { (functions.all_reduce)(address, address, count, data_type, values::SUM, handle, stream) }
        })
    }

    fn reduce_scatter(&self, values: Tensor<Cuda>, counts: &[usize]) -> Result<Pending<Cuda>> {
        const NAME: &str = "reduce_scatter";
        self.check_counts(NAME, counts, values.numel(), counts.iter().sum())?;
        let (values, dtype, rank) = (values.contiguous()?, values.dtype(), self.communicator.rank());
        let data_type = data_type(NAME, dtype)?;
        let from = values.view().address();
        let (mut to, backend) = (0, self.executor.cuda());
        let sum = Tensor::written_by(backend, &[counts[rank]], dtype, |out| {
            to = out.address();
            Ok(())
        })?;
        self.start(NAME, Some(values), sum, |functions, handle, stream| match equal(counts) {
            // SAFETY: `ranks · count` and `count` elements of device memory, in use until the operation is done.
            Some(count) => unsafe {
                (functions.reduce_scatter)(from, to, count, data_type, values::SUM, handle, stream)
            },
            None => grouped(
                functions,
                parts(counts).enumerate().map(|(root, (start, count))| {
                    let from = from + (start * dtype.size()) as u64;
                    // SAFETY: as above; only the root's result is written.
                    unsafe {
                        let reduce = functions.reduce;
                        reduce(from, to, count, data_type, values::SUM, root as c_int, handle, stream)
                    }
                }),
            ),
        })
    }

    fn all_gather(&self, part: Tensor<Cuda>, counts: &[usize]) -> Result<Pending<Cuda>> {
        const NAME: &str = "all_gather";
        let rank = self.communicator.rank();
        self.check_counts(NAME, counts, part.numel(), counts.get(rank).copied().unwrap_or(0))?;
        let (part, dtype) = (part.contiguous()?, part.dtype());
        let data_type = data_type(NAME, dtype)?;
        let from = part.view().address();
        let (mut to, backend) = (0, self.executor.cuda());
        let all = Tensor::written_by(backend, &[counts.iter().sum()], dtype, |out| {
            to = out.address();
            Ok(())
        })?;
        self.start(NAME, Some(part), all, |functions, handle, stream| match equal(counts) {
            // SAFETY: `count` and `ranks · count` elements of device memory, in use until the operation is done.
            Some(count) => unsafe { (functions.all_gather)(from, to, count, data_type, handle, stream) },
            None => grouped(
                functions,
                parts(counts).enumerate().map(|(root, (start, count))| {
                    let to = to + (start * dtype.size()) as u64;
                    // SAFETY: as above; only the root's elements are read.
                    unsafe {
                        (functions.broadcast)(from, to, count, data_type, root as c_int, handle, stream)
                    }
                }),
            ),
        })
    }
}
