//! The transport between the processes of a job.

use std::fmt::Debug;

use crate::{Error, Result};

/// Bytes of a broadcast that are sent at a time: transports count in 32 bits.
const PIECE_BYTES: usize = 1 << 28;

/// The processes of a job, called ranks, and the exchange of bytes between them.
///
/// All methods that return a [`Result`] are collective: every rank calls the same ones in the same order, one at a time, with
/// equal counts. They return once the other ranks have sent their part.
pub trait Communicator: Debug + Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Number of this process among those on the same machine, from 0: the number of its GPU.
    fn local_rank(&self) -> usize;

    /// Number of processes on the same machine.
    fn local_size(&self) -> usize;

    /// Sends `counts[i]` bytes of `send` to each rank i, one part after another. Returns `counts[rank]` bytes from each rank,
    /// in the order of the ranks.
    ///
    /// # Errors
    /// [`Error::Backend`] if a rank does not answer in time, or the transport fails.
    fn all_to_all(&self, send: &[u8], counts: &[usize]) -> Result<Vec<u8>>;

    /// Sends `part`, of `counts[rank]` bytes, to all ranks. Returns the parts of all, in the order of the ranks.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn all_gather(&self, part: &[u8], counts: &[usize]) -> Result<Vec<u8>>;

    /// Ends all processes of the job, after a failure of this one that the others cannot know of.
    fn abort(&self, exit_code: i32) -> !;

    /// Sends `bytes`, of any number, to all ranks. Returns those of each rank.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        const LEN: usize = size_of::<u64>();
        let sizes = self.all_gather(&(bytes.len() as u64).to_le_bytes(), &vec![LEN; self.size()])?;
        let size = |bytes: &[u8]| bytes.iter().rev().fold(0, |size, &byte| size << 8 | usize::from(byte));
        let counts: Vec<usize> = sizes.chunks_exact(LEN).map(size).collect();
        let all = self.all_gather(bytes, &counts)?;
        let mut rest = &all[..];
        Ok(counts.iter().map(|&count| rest.split_off(..count).unwrap_or_default().to_vec()).collect())
    }

    /// Sends `bytes` from the rank `root` to all others. Returns them; the bytes of other ranks are ignored.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        let own = self.rank() == root;
        let len = self.gather(&if own { (bytes.len() as u64).to_le_bytes().to_vec() } else { Vec::new() })?;
        let len = <[u8; 8]>::try_from(&*len[root]).map(u64::from_le_bytes).map_err(|_| Error::Backend {
            op: "broadcast",
            message: format!("expected the number of bytes from rank {root}, got {} bytes", len[root].len()),
        })?;
        let mut out = Vec::with_capacity(len as usize);
        while out.len() < len as usize {
            let count = PIECE_BYTES.min(len as usize - out.len());
            let part = if own { &bytes[out.len()..][..count] } else { &[] };
            let counts: Vec<usize> =
                (0..self.size()).map(|rank| if rank == root { count } else { 0 }).collect();
            out.extend(self.all_gather(part, &counts)?);
        }
        Ok(out)
    }

    /// Waits until all ranks have called it.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[0], &vec![1; self.size()]).map(drop)
    }
}

/// A single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn local_size(&self) -> usize {
        1
    }

    fn all_to_all(&self, send: &[u8], _: &[usize]) -> Result<Vec<u8>> {
        Ok(send.to_vec())
    }

    fn all_gather(&self, part: &[u8], _: &[usize]) -> Result<Vec<u8>> {
        Ok(part.to_vec())
    }

    fn abort(&self, exit_code: i32) -> ! {
        std::process::exit(exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_process_has_its_own_bytes() {
        assert_eq!(Solo.gather(b"abc").unwrap(), [b"abc"]);
        assert_eq!(Solo.gather(b"").unwrap(), [b""]);
        assert_eq!(Solo.broadcast(0, b"abc").unwrap(), b"abc");
        Solo.barrier().unwrap();
    }
}
