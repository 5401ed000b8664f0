//! Device memory that is used again. The stream does everything in order, so a block can be given to the next who asks
//! as soon as its owner lets go of it, although the device may not have come so far.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A stretch of device memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// Blocks that nobody owns, by size.
#[derive(Debug, Default)]
struct Blocks(BTreeMap<usize, Vec<u64>>);

impl Blocks {
    fn give(&mut self, block: Block) {
        self.0.entry(block.bytes).or_default().push(block.address);
    }

    /// The smallest block of at least `bytes` that is not more than a quarter too large.
    fn take(&mut self, bytes: usize) -> Option<Block> {
        let (&size, addresses) = self.0.range_mut(bytes..=bytes.saturating_add(bytes / 4)).next()?;
        let address = addresses.pop().expect("empty lists are removed");
        if addresses.is_empty() {
            self.0.remove(&size);
        }
        Some(Block { address, bytes: size })
    }

    fn drain(&mut self) -> impl Iterator<Item = Block> + use<> {
        let sizes = mem::take(&mut self.0).into_iter();
        sizes
            .flat_map(|(bytes, addresses)| addresses.into_iter().map(move |address| Block { address, bytes }))
    }
}

/// The free blocks of a device.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Blocks>,
}

impl Pool {
    /// The size of the block that holds `bytes`: sizes repeat, so that blocks fit again.
    pub(crate) fn rounded(bytes: usize) -> usize {
        const SMALL: usize = 512;
        const LARGE: usize = 2 << 20;
        let unit = if bytes < LARGE { SMALL } else { LARGE };
        bytes.max(1).checked_next_multiple_of(unit).unwrap_or(usize::MAX)
    }

    pub(crate) fn take(&self, bytes: usize) -> Option<Block> {
        self.free.lock().take(bytes)
    }

    pub(crate) fn give(&self, block: Block) {
        self.free.lock().give(block);
    }

    pub(crate) fn drain(&self) -> Vec<Block> {
        self.free.lock().drain().collect()
    }
}

/// The memory of a recording: what was allocated meanwhile stays its own, so that nobody else uses it between two
/// replays. It goes to the pool when the recording and every tensor in it are gone.
#[derive(Debug)]
pub(crate) struct Arena {
    free: Mutex<Blocks>,
    pool: Weak<Pool>,
}

impl Arena {
    pub(crate) fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), pool: Arc::downgrade(pool) })
    }

    pub(crate) fn take(&self, bytes: usize) -> Option<Block> {
        self.free.lock().take(bytes)
    }

    pub(crate) fn give(&self, block: Block) {
        self.free.lock().give(block);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            self.free.get_mut().drain().for_each(|block| pool.give(block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_serves_what_is_nearly_as_large() {
        let pool = Pool::default();
        let sizes = [512, 4096, 8192].map(|bytes| Block { address: bytes as u64, bytes });
        sizes.into_iter().for_each(|block| pool.give(block));
        assert_eq!(pool.take(1024), None);
        assert_eq!(pool.take(3584), Some(Block { address: 4096, bytes: 4096 }));
        assert_eq!(pool.take(4096), None);
        assert_eq!(pool.take(usize::MAX), None);
        assert_eq!(pool.drain().len(), 2);
        assert_eq!([0, 1, 512, 513, (2 << 20) + 1].map(Pool::rounded), [512, 512, 512, 1024, 4 << 20]);
        assert_eq!(Pool::rounded(usize::MAX), usize::MAX);
    }

    #[test]
    fn an_arena_gives_its_blocks_to_the_pool_in_the_end() {
        let pool = Arc::new(Pool::default());
        let arena = Arena::new(&pool);
        arena.give(Block { address: 7, bytes: 512 });
        assert_eq!(pool.take(512), None);
        drop(arena);
        assert_eq!(pool.take(512), Some(Block { address: 7, bytes: 512 }));
    }
}
