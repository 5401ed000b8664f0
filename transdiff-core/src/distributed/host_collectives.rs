//! Collectives by way of host memory, for any device and transport.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::collectives::{Collectives, Pending, even_counts};
use super::communicator::Communicator;
use super::pairwise::TermSum;
use crate::backend::Summation;
use crate::{Backend, DType, Error, HostData, HostTensor, Result, Tensor, bf16};

/// Bytes that a rank receives at a time, by default.
const PIECE_BYTES: usize = 64 << 20;

/// Operation of the thread.
type Job = Box<dyn FnOnce() + Send>;

/// Collectives by way of host memory. A thread of its own copies, sends and sums. Every rank sums a part of the elements, in f32
/// (f64 for f64) and [pairwise](Summation::Pairwise) in the order of the ranks, and sends the sums to the others.
pub struct HostCollectives {
    communicator: Arc<dyn Communicator>,
    /// An operation has failed: the ranks no longer agree on those that follow.
    failed: Arc<AtomicBool>,
    piece_bytes: usize,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl HostCollectives {
    /// Collectives of the ranks of `communicator`. No other thread uses it while an operation is being executed.
    ///
    /// # Errors
    /// [`Error::Backend`] if the system starts no thread.
    pub fn new(communicator: Arc<dyn Communicator>) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::Builder::new().name("collectives".into());
        let thread = thread.spawn(move || queue.into_iter().for_each(|job| job()));
        let thread = thread.map_err(|error| Error::Backend {
            op: "HostCollectives::new",
            message: format!("cannot start a thread: {error}"),
        })?;
        let (failed, jobs) = (Arc::default(), Mutex::new(Some(jobs)));
        Ok(Self { communicator, failed, piece_bytes: PIECE_BYTES, jobs, thread: Some(thread) })
    }

    /// The same collectives, whose ranks receive the parts of a sum in pieces of `bytes` bytes, at least an element from each
    /// rank: 64 MiB by default. All ranks set the same.
    #[must_use]
    pub fn with_piece_bytes(mut self, bytes: usize) -> Self {
        self.piece_bytes = bytes;
        self
    }

    fn check_counts(&self, op: &'static str, counts: &[usize]) -> Result<()> {
        match self.communicator.size() {
            ranks if ranks == counts.len() => Ok(()),
            ranks => Err(Error::shape(op, format!("a count for each of {ranks} ranks"), &[counts.len()])),
        }
    }

    /// Enqueues `operation` on the elements of `values`.
    fn enqueue<B: Backend>(
        &self,
        values: Tensor<B>,
        operation: impl FnOnce(&dyn Communicator, HostData) -> Result<HostData> + Send + 'static,
    ) -> Pending<B> {
        let (sender, receiver) = channel();
        let (communicator, failed) = (Arc::clone(&self.communicator), Arc::clone(&self.failed));
        let run = move || {
            if failed.swap(true, Ordering::Relaxed) {
                let message = "an earlier operation has failed".to_owned();
                return Err(Error::Backend { op: "collectives", message });
            }
            let backend = values.backend().clone();
            let host = values.to_host()?.into_data();
            drop(values);
            let data = operation(&*communicator, host)?;
            let shape = [data.len()];
            let done = Tensor::from_host(&backend, &HostTensor::new(&shape, data)?)?;
            failed.store(false, Ordering::Relaxed);
            Ok(done)
        };
        let job = move || {
            // Nobody waits any more for a result whose step has failed.
            let _ = sender.send(run());
        };
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(job)).is_ok());
        let gone = || Error::Backend { op: "collectives", message: "their thread has panicked".into() };
        Pending::new(move || match accepted {
            true => receiver.recv().unwrap_or_else(|_| Err(gone())),
            false => Err(gone()),
        })
    }
}

impl fmt::Debug for HostCollectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostCollectives").field(&self.communicator).finish()
    }
}

impl Drop for HostCollectives {
    fn drop(&mut self) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            // A panic has reached whoever waited for the result.
            let _ = thread.join();
        }
    }
}

impl<B: Backend> Collectives<B> for HostCollectives {
    fn communicator(&self) -> &Arc<dyn Communicator> {
        &self.communicator
    }

    fn all_reduce(&self, values: Tensor<B>) -> Result<Pending<B>> {
        let (counts, piece) = (even_counts(values.numel(), self.communicator.size()), self.piece_bytes);
        Ok(self.enqueue(values, move |communicator, data| {
            let part = sum_of_part(communicator, &data, &counts, piece)?;
            gather_parts(communicator, &part, &counts)
        }))
    }

    fn reduce_scatter(&self, values: Tensor<B>, counts: &[usize]) -> Result<Pending<B>> {
        self.check_counts("reduce_scatter", counts)?;
        check(values.numel(), counts.iter().sum(), "reduce_scatter")?;
        let (counts, piece) = (counts.to_vec(), self.piece_bytes);
        Ok(self.enqueue(values, move |communicator, data| sum_of_part(communicator, &data, &counts, piece)))
    }

    fn all_gather(&self, part: Tensor<B>, counts: &[usize]) -> Result<Pending<B>> {
        self.check_counts("all_gather", counts)?;
        check(part.numel(), counts[self.communicator.rank()], "all_gather")?;
        let counts = counts.to_vec();
        Ok(self.enqueue(part, move |communicator, data| gather_parts(communicator, &data, &counts)))
    }
}

fn check(got: usize, expected: usize, op: &'static str) -> Result<()> {
    match got == expected {
        true => Ok(()),
        false => Err(Error::shape(op, format!("{expected} elements"), &[got])),
    }
}

/// Sends each rank its part of `data`, and sums the parts that come: piece by piece, because a rank receives its part from all.
fn sum_of_part(
    communicator: &dyn Communicator,
    data: &HostData,
    counts: &[usize],
    piece_bytes: usize,
) -> Result<HostData> {
    let (dtype, bytes) = (data.dtype(), bytes_of(data)?);
    let size = dtype.size();
    let piece = (piece_bytes / (size * counts.len())).max(1);
    let longest = counts.iter().copied().max().unwrap_or(0);
    let mut out = Vec::with_capacity(counts[communicator.rank()] * size);
    for done in (0..longest).step_by(piece) {
        let counts_of_piece: Vec<usize> =
            counts.iter().map(|count| count.saturating_sub(done).min(piece) * size).collect();
        let mut start = done * size;
        let parts = counts.iter().zip(&counts_of_piece).map(|(count, &len)| {
            let part = bytes.get(start..start + len).unwrap_or_default();
            start += count * size;
            part
        });
        let sent = parts.collect::<Vec<&[u8]>>().concat();
        let received = communicator.all_to_all(&sent, &counts_of_piece)?;
        let len = counts_of_piece[communicator.rank()];
        let mut sum = TermSum::new(Summation::Pairwise, counts.len());
        for rank in 0..counts.len() {
            let term = from_bytes(&received[rank * len..][..len], dtype);
            // bf16 is a format to send in, not to add in.
            let term = if dtype == DType::BF16 { term.cast(DType::F32)? } else { term };
            sum.push(term, |a, b| Ok(add(a, &b)))?;
        }
        out.extend_from_slice(bytes_of(&sum.finish().expect("there is a rank").cast(dtype)?)?);
    }
    Ok(from_bytes(&out, dtype))
}

/// Sends `part` to all ranks. Returns the parts of all.
fn gather_parts(communicator: &dyn Communicator, part: &HostData, counts: &[usize]) -> Result<HostData> {
    let all = communicator.all_gather(bytes_of(part)?, &byte_counts(counts, part.dtype()))?;
    Ok(from_bytes(&all, part.dtype()))
}

fn byte_counts(counts: &[usize], dtype: DType) -> Vec<usize> {
    counts.iter().map(|count| count * dtype.size()).collect()
}

/// a + b, of one float type other than bf16 and one length.
fn add(mut a: HostData, b: &HostData) -> HostData {
    match (&mut a, b) {
        (HostData::F32(a), HostData::F32(b)) => a.iter_mut().zip(b).for_each(|(a, b)| *a += b),
        (HostData::F64(a), HostData::F64(b)) => a.iter_mut().zip(b).for_each(|(a, b)| *a += b),
        _ => unreachable!("terms have one type, f32 or f64"),
    }
    a
}

/// The elements in the byte order of the machine: all ranks run one program.
fn bytes_of(data: &HostData) -> Result<&[u8]> {
    match data {
        HostData::F32(values) => Ok(bytemuck::cast_slice(values)),
        HostData::F64(values) => Ok(bytemuck::cast_slice(values)),
        HostData::BF16(values) => Ok(bytemuck::cast_slice(values)),
        HostData::I32(_) => {
            Err(Error::DType { op: "collectives", expected: "a float type".into(), got: DType::I32 })
        }
    }
}

fn from_bytes(bytes: &[u8], dtype: DType) -> HostData {
    match dtype {
        DType::F32 => HostData::F32(bytemuck::pod_collect_to_vec(bytes)),
        DType::F64 => HostData::F64(bytemuck::pod_collect_to_vec(bytes)),
        DType::BF16 => HostData::BF16(bytemuck::pod_collect_to_vec::<u8, bf16>(bytes)),
        DType::I32 => HostData::I32(bytemuck::pod_collect_to_vec(bytes)),
    }
}
