//! The way between host memory and the device: pinned memory, in pieces that are used in turn.

use transdiff_core::Result;

use crate::driver::{Driver, Pinned};

/// Bytes of a piece: large enough for the speed of the bus, small enough to be had.
const PIECE: usize = 4 << 20;
/// Pieces: while one is filled, others are on their way.
const PIECES: usize = 4;

#[derive(Debug)]
pub(crate) struct Staging {
    pieces: Vec<Pinned>,
    next: usize,
}

impl Staging {
    pub(crate) fn new(driver: &Driver) -> Result<Self> {
        let pieces = (0..PIECES).map(|_| driver.pinned("staging", PIECE)).collect::<Result<_>>()?;
        Ok(Self { pieces, next: 0 })
    }

    fn piece(&mut self) -> &mut Pinned {
        self.next = (self.next + 1) % PIECES;
        &mut self.pieces[self.next]
    }

    /// Copies `bytes` to the device address `to`. They may change as soon as this returns, although they may still be
    /// under way.
    pub(crate) fn upload(&mut self, driver: &Driver, op: &'static str, bytes: &[u8], to: u64) -> Result<()> {
        for (i, part) in bytes.chunks(PIECE).enumerate() {
            let piece = self.piece();
            piece.bytes(op)?[..part.len()].copy_from_slice(part);
            driver.upload(op, piece, part.len(), to + (i * PIECE) as u64)?;
        }
        Ok(())
    }

    /// Fills `bytes` from the device address `from`, after everything that was asked of the device before. While a
    /// piece is copied out, the next is under way.
    pub(crate) fn download(
        &mut self,
        driver: &Driver,
        op: &'static str,
        from: u64,
        bytes: &mut [u8],
    ) -> Result<()> {
        let parts: Vec<&mut [u8]> = bytes.chunks_mut(PIECE).collect();
        let sizes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let ask = |this: &mut Self, i: usize| {
            let Some(&size) = sizes.get(i) else { return Ok(()) };
            let piece = &mut this.pieces[i % PIECES];
            piece.bytes(op)?;
            driver.download(op, from + (i * PIECE) as u64, size, piece)
        };
        (0..PIECES - 1).try_for_each(|i| ask(self, i))?;
        for (i, part) in parts.into_iter().enumerate() {
            ask(self, i + PIECES - 1)?;
            let piece = self.pieces[i % PIECES].bytes(op)?;
            part.copy_from_slice(&piece[..part.len()]);
        }
        Ok(())
    }
}
