//! Staging buffers for transfers between host and device: chunks of pinned memory that are used in rotation.

use transdiff_core::Result;

use crate::driver::{Driver, PinnedBuffer};

/// Bytes of a chunk: large enough for the full bus bandwidth, small enough to be allocated anywhere.
const CHUNK: usize = 4 << 20;
/// Number of chunks: while one is filled, others are in transfer.
const CHUNKS: usize = 4;

#[derive(Debug)]
pub(crate) struct Staging {
    chunks: Vec<PinnedBuffer>,
    next: usize,
}

impl Staging {
    pub(crate) fn new(driver: &Driver) -> Result<Self> {
        let chunks = (0..CHUNKS).map(|_| driver.pinned("staging", CHUNK)).collect::<Result<_>>()?;
        Ok(Self { chunks, next: 0 })
    }

    fn next_chunk(&mut self) -> &mut PinnedBuffer {
        self.next = (self.next + 1) % CHUNKS;
        &mut self.chunks[self.next]
    }

    /// Copies `bytes` to the device address `to`. The caller may change `bytes` as soon as this returns, even if the
    /// transfer is still in progress.
    pub(crate) fn upload(&mut self, driver: &Driver, op: &'static str, bytes: &[u8], to: u64) -> Result<()> {
        for (i, part) in bytes.chunks(CHUNK).enumerate() {
            let chunk = self.next_chunk();
            chunk.bytes(op)?[..part.len()].copy_from_slice(part);
            driver.upload(op, chunk, part.len(), to + (i * CHUNK) as u64)?;
        }
        Ok(())
    }

    /// Fills `bytes` from the device address `from`, after all work enqueued before. While one chunk is copied out,
    /// the next ones are in transfer.
    pub(crate) fn download(
        &mut self,
        driver: &Driver,
        op: &'static str,
        from: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let parts: Vec<&mut [u8]> = bytes.chunks_mut(CHUNK).collect();
        let sizes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let enqueue = |this: &mut Self, i: usize| {
            let Some(&size) = sizes.get(i) else { return Ok(()) };
            let chunk = &mut this.chunks[i % CHUNKS];
            chunk.bytes(op)?;
            driver.download(op, from + (i * CHUNK) as u64, size, chunk)
        };
        (0..CHUNKS - 1).try_for_each(|i| enqueue(self, i))?;
        for (i, part) in parts.into_iter().enumerate() {
            enqueue(self, i + CHUNKS - 1)?;
            let chunk = self.chunks[i % CHUNKS].bytes(op)?;
            part.copy_from_slice(&chunk[..part.len()]);
        }
        Ok(())
    }
}
