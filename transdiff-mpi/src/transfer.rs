//! Nonblocking exchanges, which can be given up.

use std::ffi::{c_char, c_int};
use std::mem::ManuallyDrop;
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use mpi::ffi::{self, MPI_Comm, MPI_Request};
use transdiff_core::{Error, Result, try_with_capacity};

/// Time for which a process asks again and again for the end of a transfer, and only lets others have its core: this, and
/// [`SPIN_PER_BYTE`]. Libraries send large messages in pieces, and go on to the next one when they are asked.
const SPIN: Duration = Duration::from_millis(1);
/// Duration per byte of a transfer within a machine, 1 GB/s.
const SPIN_PER_BYTE: Duration = Duration::from_nanos(1);
/// Shortest and longest pause between two questions after that.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];
/// Part of the time waited so far that the next pause takes.
const PAUSE_SHARE: u32 = 50;

/// Operation of all ranks.
#[derive(Clone, Copy)]
enum Operation {
    AllToAll,
    AllGather,
    Barrier,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::AllToAll => "all_to_all",
            Self::AllGather => "all_gather",
            Self::Barrier => "barrier",
        }
    }
}

/// Bytes of one side of a transfer: those of each rank, one part after another.
#[derive(Default)]
struct Side {
    bytes: Vec<u8>,
    counts: Vec<c_int>,
    offsets: Vec<c_int>,
}

impl Side {
    /// A side with `counts[i]` bytes of rank i: `bytes`, or zeros.
    fn new(operation: Operation, counts: &[usize], bytes: Option<&[u8]>) -> Result<Self> {
        let op = operation.name();
        let mut offsets = Vec::with_capacity(counts.len());
        let mut total: usize = 0;
        for count in counts {
            offsets.push(total as c_int);
            total = total.saturating_add(*count);
        }
        check_size(op, total)?;
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() != total) {
            return Err(failure(op, format!("expected {total} bytes to send, got {}", bytes.len())));
        }
        // A vector without memory has the address 1, which Open MPI reads as MPI_IN_PLACE.
        let mut own = try_with_capacity(op, total.max(1))?;
        match bytes {
            Some(bytes) => own.extend_from_slice(bytes),
            None => own.resize(total, 0),
        }
        Ok(Self { bytes: own, counts: counts.iter().map(|&count| count as c_int).collect(), offsets })
    }
}

/// Checks the size of a side: MPI 3 counts in `int`.
fn check_size(op: &'static str, bytes: usize) -> Result<()> {
    match c_int::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(failure(op, format!("expected at most {} bytes per rank, got {bytes}", c_int::MAX))),
    }
}

/// An exchange of bytes. It owns the memory that MPI reads and writes.
pub struct Transfer {
    operation: Operation,
    send: Side,
    receive: Side,
}

impl Transfer {
    /// `counts[i]` bytes of `send` to each rank i, and `counts[rank]` bytes from each.
    ///
    /// # Errors
    /// [`Error::Backend`] if there are more bytes than MPI counts, or `send` is not as long as the counts require.
    pub fn all_to_all(send: &[u8], counts: &[usize], rank: usize) -> Result<Self> {
        let operation = Operation::AllToAll;
        // That of the rank that receives most, so that all ranks fail.
        let most = counts.iter().max().map_or(0, |most| most.saturating_mul(counts.len()));
        check_size(operation.name(), most)?;
        let send = Side::new(operation, counts, Some(send))?;
        Ok(Self { operation, send, receive: Side::new(operation, &vec![counts[rank]; counts.len()], None)? })
    }

    /// `part`, of `counts[rank]` bytes, to all ranks, and the parts of all.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    pub fn all_gather(part: &[u8], counts: &[usize], rank: usize) -> Result<Self> {
        let operation = Operation::AllGather;
        let receive = Side::new(operation, counts, None)?;
        Ok(Self { operation, send: Side::new(operation, &counts[rank..=rank], Some(part))?, receive })
    }

    /// No bytes: waits until all ranks have called it.
    pub fn barrier() -> Self {
        Self { operation: Operation::Barrier, send: Side::default(), receive: Side::default() }
    }

    /// Executes the transfer among all `ranks` of `communicator`. Returns the received bytes.
    ///
    /// # Errors
    /// [`Error::Backend`] if MPI fails, or the transfer takes longer than `timeout`. The memory is then left to MPI for ever:
    /// it may still write to it.
    ///
    /// # Safety
    /// `communicator` is valid, has `ranks` ranks, and as many counts were given. MPI is initialised, and not finalised.
    pub unsafe fn run(self, communicator: MPI_Comm, ranks: usize, timeout: Duration) -> Result<Vec<u8>> {
        let mut transfer = ManuallyDrop::new(self);
        let op = transfer.operation.name();
        let bytes = transfer.send.bytes.len().max(transfer.receive.bytes.len());
        // SAFETY: the caller's promise; the memory of `transfer` is freed only once the request is complete.
        unsafe {
            let request = transfer.start(communicator)?;
            wait(op, request, bytes, ranks, timeout)?;
        }
        Ok(ManuallyDrop::into_inner(transfer).receive.bytes)
    }

    /// # Safety
    /// As for [`run`](Self::run), and the memory of `self` outlives the request.
    unsafe fn start(&mut self, communicator: MPI_Comm) -> Result<MPI_Request> {
        let Self { operation, send, receive } = self;
        // SAFETY: constants of the library, which is initialised.
        let (byte, mut request) = unsafe { (ffi::RSMPI_UINT8_T, ffi::RSMPI_REQUEST_NULL) };
        let (from, to) = (send.bytes.as_ptr().cast(), receive.bytes.as_mut_ptr().cast());
        let (counts, offsets) = (receive.counts.as_ptr(), receive.offsets.as_ptr());
        // SAFETY: each side has a count and an offset per rank (the sending side of all_gather one count), and the parts
        // lie within its bytes. The communicator is the caller's.
        let code = unsafe {
            match operation {
                Operation::AllToAll => ffi::MPI_Ialltoallv(
                    from,
                    send.counts.as_ptr(),
                    send.offsets.as_ptr(),
                    byte,
                    to,
                    counts,
                    offsets,
                    byte,
                    communicator,
                    &mut request,
                ),
                Operation::AllGather => {
                    let count = send.counts[0];
                    ffi::MPI_Iallgatherv(
                        from,
                        count,
                        byte,
                        to,
                        counts,
                        offsets,
                        byte,
                        communicator,
                        &mut request,
                    )
                }
                Operation::Barrier => ffi::MPI_Ibarrier(communicator, &mut request),
            }
        };
        check(operation.name(), code).map(|()| request)
    }
}

/// Waits until `request`, a transfer of `bytes` bytes, is complete.
///
/// # Safety
/// `request` comes from a nonblocking operation, and its memory is valid.
unsafe fn wait(
    op: &'static str,
    mut request: MPI_Request,
    bytes: usize,
    ranks: usize,
    timeout: Duration,
) -> Result<()> {
    // Within 32 bits, as MPI's counts are.
    let spin = SPIN + SPIN_PER_BYTE * bytes as u32;
    let started = Instant::now();
    loop {
        let mut complete = 0;
        // SAFETY: the caller's promise; no status is asked for.
        let code = unsafe { ffi::MPI_Test(&mut request, &mut complete, ffi::RSMPI_STATUS_IGNORE) };
        check(op, code)?;
        if complete != 0 {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited >= timeout {
            let seconds = timeout.as_secs_f64();
            let message = format!(
                "no answer from all of {ranks} ranks within {seconds} s: a rank has ended, hangs or takes longer"
            );
            return Err(failure(op, message));
        }
        match waited < spin {
            // Ranks often share a core.
            true => yield_now(),
            false => sleep((waited / PAUSE_SHARE).clamp(PAUSES[0], PAUSES[1])),
        }
    }
}

/// Turns a return code of MPI into an error with its text.
pub fn check(op: &'static str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len = 0;
    // SAFETY: the buffer has the length that MPI requires.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &mut len) };
    let text = &text[..usize::try_from(len).unwrap_or(0).min(text.len())];
    Err(failure(op, format!("MPI: {}", String::from_utf8_lossy(text))))
}

/// An error of the operation `op`.
pub fn failure(op: &'static str, message: impl Into<String>) -> Error {
    Error::Backend { op, message: message.into() }
}
